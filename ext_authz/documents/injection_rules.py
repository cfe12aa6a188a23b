"""The pack of screening rules, as its authors write it.

1. A pattern means the same in RE2 and in Hyperscan, byte for byte; what could differ is refused here.
2. Patterns see normalised text: lower case, one space between words, letters folded (`injection/normalise.py`).
   Letters beyond ASCII are written as the language writes them; they are folded with the text's own table.
3. Every rule carries the texts that prove it, those that it must find and those that it must leave alone.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from ext_authz.documents.models import Model

# The syntax of patterns:
#   pattern    = 1*( "|" / "(?:" / ")" [ quantifier ] / atom [ quantifier ] / character )
#   atom       = one printable ASCII character but a capital or a special one / "." / class / escape / "{" word "}"
#   class      = "[" [ "^" ] 1*( printable ASCII but a capital, "[", "\" and "]" ) "]"
#   escape     = "\b" / "\d" / "\w" / "\" and a special character    ; \b \d \w know ASCII only
#   quantifier = "?" / "*" / "+" / "{" n [ "," [ m ] ] "}"           ; never lazy or possessive: which text matched is not asked
#   character  = one beyond ASCII, without a quantifier: engines would repeat its last byte only
# Left out because the engines differ or the text has none: ^ $ \s \B, groups that capture, flags, look-around, capitals.
_SPECIAL = r"\\^$.|?*+()\[\]{}"
_QUANTIFIER = r"(?:[?*+]|\{\d{1,3}(?:,\d{0,3})?\})?"
_PATTERN = re.compile(
    rf"(?:\||\(\?:|\){_QUANTIFIER}"
    rf"|(?:[^A-Z\x00-\x1f\x7f-\U0010ffff{_SPECIAL}]|\.|\[\^?[^A-Z\x00-\x1f\x7f-\U0010ffff\[\\\]^]+\]|\\[bdw{_SPECIAL}]|\{{[a-z_]+\}}){_QUANTIFIER}"
    r"|[\x80-\U0010ffff])+"
)


def _check_syntax(pattern: str) -> str:
    if _PATTERN.fullmatch(pattern) is None:
        raise ValueError("not in the syntax that RE2 and Hyperscan read alike")
    return pattern


def _listed(patterns: Any) -> Any:
    return [patterns] if isinstance(patterns, str) else patterns


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_check_syntax)]
# One or several, any of which may match.
Patterns = Annotated[list[Pattern], Field(min_length=1), BeforeValidator(_listed)]
Examples = Annotated[list[str], Field(min_length=2)]


class RuleExamples(Model):
    """Texts as they would arrive, before normalisation."""

    match: Examples
    no_match: Examples  # honest look-alikes; no rule of the pack may match them


class InjectionRule(Model):
    """One way in which a text tries to instruct the agent that reads it."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z_]+$", max_length=64)]
    category: Annotated[str, StringConstraints(pattern=r"^[a-z_]+$", max_length=32)]
    weight: Annotated[float, Field(gt=0, le=1)]  # how sure a match is; becomes the finding's score
    pattern: Patterns
    examples: RuleExamples


class InjectionRules(Model):
    """A pack of rules. A pattern writes `{name}` for any of the words that stand under that name."""

    kind: Literal["InjectionRules"]
    version: Literal[1] = 1
    words: dict[Annotated[str, StringConstraints(pattern=r"^[a-z_]+$")], Patterns] = {}
    rules: Annotated[list[InjectionRule], Field(min_length=1)]
