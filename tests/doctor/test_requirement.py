"""Ranges and requirements, held against `packaging`, which the doctor itself may not rest on."""

from __future__ import annotations

import importlib.metadata
import itertools

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement as Reference
from packaging.specifiers import SpecifierSet

from cadmllm.doctor.requirement import holds, in_range, normal, parse_requirement

VERSIONS = (
    *("2.13.0+cpu", "2.8", "2.8.0", "2.7.1", "8.0.1.1.0", "8.1", "8.1.0rc1", "8.1.dev3", "8.1.post1", "0.23.0+cu128", "1!2.0"),
    *("2.11.0a0", "2.9.0b2", "2.9.0.dev20260101+cu130", "3", "1.0.0.post2.dev1", "2.8.1+cu128", "26.3"),
)
RANGES = (
    *(">=2.8", "<=2.8", "==2.8", "!=2.8", ">2.8", "<2.8", "==2.8.*", "!=2.8.*", "~=2.7", "~=8.0.1", ">=8.0,<8.1", "<8.1rc2"),
    *("==0.23.0+cu128", "> 2, <= 3.0", "", ">8.1", "<=8.1.post1", "==26.3", ">=2.9.0b1", "~=2.8.0", "!=5.28.0,<9", "===2.8"),
)


@pytest.mark.parametrize(("version", "wanted"), list(itertools.product(VERSIONS, RANGES)))
def test_ranges_are_those_of_packaging(version, wanted):
    assert in_range(version, wanted) is SpecifierSet(wanted).contains(version, prereleases=True)


MARKERS = (
    'platform_system == "Linux"',
    'platform_system == "Windows" and python_version >= "3.8"',
    "python_version < '3.12' or extra == 'x'",
    '(sys_platform == "linux" or os_name == "nt") and platform_machine != "sparc"',
    'python_full_version >= "3.11.0" and implementation_name == "cpython"',
    '"linux" in sys_platform',
    '"win" not in sys_platform and extra == "Quick_Extra"',
    'platform_machine in "x86_64 aarch64"',
    '"3.9" <= python_version',
    'extra == "a" and (python_version > "3" or os_name == "x") or extra == "b"',
    'python_version ~= "3.0"',
)


@pytest.mark.parametrize(("marker", "extra"), list(itertools.product(MARKERS, ("", "x", "quick-extra", "a", "b"))))
def test_markers_are_those_of_packaging(marker, extra):
    assert holds(marker, extra) is Marker(marker).evaluate({"extra": extra})


def test_every_requirement_that_is_installed_here_is_read():
    seen = 0
    for distribution in importlib.metadata.distributions():
        for line in distribution.requires or []:
            ours, reference = parse_requirement(line), Reference(line)
            assert ours.name == normal(reference.name)
            assert set(ours.extras) == {normal(extra) for extra in reference.extras}
            assert SpecifierSet(ours.wanted) == reference.specifier
            assert ours.applies() is (reference.marker is None or reference.marker.evaluate({"extra": ""}))
            seen += 1
    assert seen > 100


@pytest.mark.parametrize(
    ("line", "name", "extras", "wanted"),
    [
        ("Foo_Bar.baz [A, b] >= 1.0 , < 2", "foo-bar-baz", ("a", "b"), ">=1.0,<2"),
        ("foo (>=1.0,!=1.2) ; python_version >= '3'", "foo", (), ">=1.0,!=1.2"),
        ("foo @ https://example.org/foo.whl ; os_name == 'posix'", "foo", (), ""),
        ("foo", "foo", (), ""),
    ],
)
def test_older_spellings(line, name, extras, wanted):
    found = parse_requirement(line)
    assert (found.name, found.extras, found.wanted) == (name, extras, wanted)


@pytest.mark.parametrize("marker", ["python_version", "os_name ==", "os_name == 'x' and", "(os_name == 'x'", "moon == 'x'", "!?"])
def test_what_is_no_marker_is_refused(marker):
    with pytest.raises(ValueError, match="marker"):
        holds(marker)


def test_what_is_no_requirement_is_refused():
    with pytest.raises(ValueError, match="not a requirement"):
        parse_requirement("; nothing")
