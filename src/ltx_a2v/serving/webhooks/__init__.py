"""Tells other servers that a job has ended: signed requests to places that the operator allows."""
