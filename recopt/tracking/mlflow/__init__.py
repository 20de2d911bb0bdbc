"""The store, through MLflow: the only folder that imports mlflow."""
