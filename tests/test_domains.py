"""Domains: what a docstring allows is accepted, what it excludes is refused, with the argument's name.

tests/bad_input/subjects.py has every parameter of every public callable; a new one needs a line there.
"""

import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import ignite_tips
from tests.bad_input.domains import ODD, Domain
from tests.bad_input.subjects import SUBJECTS, Subject, registered

# Created only by the toolkit, or by Python's enum.
_NOT_CALLED = {"LayerSummary", "ModelSummary", "OptimizerEvents", "ParamGroupTable", "ParameterRow", "TrainerReport"}
_NOT_CALLED |= {"__version__"}
_PAIRS = [
    pytest.param(subject, name, domain, id=f"{title}: {name}")
    for title, subject in SUBJECTS.items()
    for name, domain in subject.domains.items()
    if isinstance(domain, Domain)
]
_WITH_INSIDERS = [pair for pair in _PAIRS if not pair.values[2].within.is_empty]
# What a sentence may name instead of the argument: something inside it.
_PARTS = r"^(pattern|parameter|options of|names of|the state|the scheduler's state|\w+ state) "
_SETTINGS = settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(("subject", "name", "domain"), _PAIRS)
def test_what_the_docstring_excludes_is_refused(subject: Subject, name: str, domain: Domain) -> None:
    """A value outside gets a one-line TypeError or ValueError that names the argument, and nothing else happens."""

    def refuse(value: Any) -> None:
        before = registered()
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b|{_PARTS}") as caught:
            subject.call(**subject.base() | {name: value})
        assert type(caught.value) in (TypeError, ValueError)
        assert "\n" not in str(caught.value)
        assert re.search(r" must | matches no ", str(caught.value))
        assert registered() == before

    for value in ODD:
        if not domain.admits(value):
            refuse(value)
    if not domain.more.is_empty:
        _SETTINGS(given(domain.more.filter(lambda value: not domain.admits(value)))(refuse))()


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
@pytest.mark.parametrize(("subject", "name", "domain"), _WITH_INSIDERS)
def test_what_the_docstring_allows_is_accepted(subject: Subject, name: str, domain: Domain) -> None:
    """A value inside the domain is accepted; a few domains have values only in another process or within a run."""

    @_SETTINGS
    @given(domain.within)
    def accepts(value: Any) -> None:
        subject.undo(subject.call(**subject.base() | {name: value}))

    accepts()


def test_every_public_parameter_has_a_domain() -> None:
    """A parameter added to a public callable, or to one of its methods, needs its own line."""
    assert {title.split(".")[0] for title in SUBJECTS if " " not in title} | _NOT_CALLED == set(ignite_tips.__all__) | {
        "ModelSummary"
    }
    for title, subject in SUBJECTS.items():
        if " " not in title:
            assert set(inspect.signature(subject.call).parameters) == set(subject.domains), title


def test_every_method_with_arguments_has_domains() -> None:
    """attach() and load_state_dict() of each public class are listed, except those shared through a base class."""
    for title in ignite_tips.__all__:
        for method in ("attach", "load_state_dict"):
            function = vars(getattr(ignite_tips, title)).get(method) if title in SUBJECTS else None
            assert function is None or f"{title}.{method}" in SUBJECTS
