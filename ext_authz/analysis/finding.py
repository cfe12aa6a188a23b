"""What lint has to say about one place of a policy."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How sure it is that something else was meant."""

    ERROR = "error"  # what is written has no effect, or never the one it says
    WARNING = "warning"  # wider than it need be, or written for nothing
    NOTE = "note"  # right or wrong, a reviewer should know


class Finding(NamedTuple):
    """One finding."""

    rule: str  # stable id, such as `cell-denied`
    level: Level
    place: str  # path:line:column
    sentence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.place}: {self.level}: {self.sentence}: {self.fix} [{self.rule}]"
