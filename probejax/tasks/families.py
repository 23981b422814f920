"""Families of tasks: tasks that share prompts, whose results are not independent of each other."""


def family(name: str) -> str:
    """Returns the family of a task of the study, empty for any other task."""
    return ""
