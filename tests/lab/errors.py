"""What can go wrong in the lab, as one exception whose text is for the person at the keyboard."""

from __future__ import annotations


class LabError(Exception):
    """A step of the lab failed; the message says which and what to do."""
