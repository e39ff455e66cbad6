"""Extraction of a policy for each of several tasks from one pretrained world model."""
