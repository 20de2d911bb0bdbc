"""Recording in MLflow: the only folder that imports mlflow."""
