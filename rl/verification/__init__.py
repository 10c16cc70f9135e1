"""Judging answers: in this process, or in children that can be killed."""
