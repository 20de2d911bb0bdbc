"""From names to strategies and levels: plugins, the notation's terms, and exported rules."""
