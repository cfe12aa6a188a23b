"""Trials as JUnit XML, which continuous integration shows."""

import re
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree as ET

from ext_authz.review.suites import Trial

# XML 1.0 section 2.2: what no document can hold, not even escaped.
_NO_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(trials: Mapping[str, Iterable[Trial]]) -> bytes:
    """Return one `testsuite` for each policy directory."""
    root = ET.Element("testsuites", name="ext-authz policy test")
    for directory, found in trials.items():
        suite = ET.SubElement(root, "testsuite", name=_text(directory))
        for trial in found:
            _add(suite, directory, trial)
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("errors", "0")
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _add(suite: ET.Element, directory: str, trial: Trial) -> None:
    path, line, _ = trial.case.where.rsplit(":", 2)
    case = ET.SubElement(
        suite, "testcase", name=_text(trial.case.name), classname=_text(directory), file=_text(path), line=line
    )
    if trial.differences:
        failure = ET.SubElement(case, "failure", message=_text("; ".join(trial.differences)))
        failure.text = _text("\n".join([trial.case.where, *trial.differences]))


def _text(text: str) -> str:
    return _NO_CHARACTER.sub("\ufffd", text)
