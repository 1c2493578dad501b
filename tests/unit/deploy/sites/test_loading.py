from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from rhapsody.deploy.sites.loading import SITE_PATH, find_sites, json_schema, load_site, load_site_file
from rhapsody.errors import SpecError
from tests.unit.deploy.texts import ABOUT, SMALL, write


@pytest.fixture(autouse=True)
def _home_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(SITE_PATH, raising=False)


def refusal_of(path: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SpecError) as refused:
        load_site_file(path, environ or {})
    return str(refused.value)


def test_a_profile_is_loaded_from_its_file(tmp_path: Path) -> None:
    profile = load_site_file(write(tmp_path, "small", SMALL))

    assert profile.name == "small"
    assert profile.queue("long").max_walltime == timedelta(hours=24)
    assert profile.scheduler.launcher_options == ()


def test_an_unknown_key_is_refused_with_its_line_and_the_key_that_was_meant(tmp_path: Path) -> None:
    path = write(tmp_path, "small", SMALL.replace("max_nodes: 2", "max_node: 2"))

    text = refusal_of(path)

    assert text.startswith(f"{path}:20: queues.entries[1].max_node: there is no such key; did you mean 'max_nodes'?")


def test_all_faults_are_told_in_the_order_of_lines(tmp_path: Path) -> None:
    wrong = SMALL.replace("kind: slurm", "kind: slrm").replace("max_walltime: 1h", "max_walltime: soon")

    lines = refusal_of(write(tmp_path, "small", wrong)).splitlines()

    assert [line.split(": ")[1] for line in lines] == ["scheduler.kind", "queues.entries[0].max_walltime"]
    assert "'slurm'" in lines[0]
    assert "write it like 2h" in lines[1]


def test_a_number_where_a_text_belongs_is_told_to_be_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, "small", SMALL.replace("kind: slurm", "kind: slurm\n  version: 25.10"))

    assert f'{path}:9: scheduler.version: 25.1 is a number here; put it in quotes: "25.1"' in refusal_of(path)


@pytest.mark.parametrize(
    ("found", "instead", "says"),
    [
        ("name: short", "name: short\n      name: other", ":17: queues.entries[0].name: is there twice"),
        ("schema: 1", "schema: 2", ":1: schema: input should be 1, but it is 2"),
        ("title: A small cluster", "title: [", "is no YAML"),
        ("title: A small cluster", "title: &a text", ":3: has an anchor"),
        ("title: A small cluster", 'title: "two\\nlines"', ":3: title: 'two\\nlines' has characters"),
        ("title: A small cluster", "", ":1: title: is missing"),
        ("  kind: slurm\n", "", ":4: scheduler.kind: is missing"),
        ("default: short", "default: tiny", ":10: queues: default is 'tiny', which is no queue here"),
        ("max_nodes: 4", "max_nodes: 0", "queues.entries[0].max_nodes: input should be greater"),
        ("name: small", "name: other", ":2: name: is 'other' in the file small.yaml"),
        ("name: long", "name: short", "two queues are called 'short'"),
        ("  confidence: H\n  kind", "  kind", ":4: scheduler: lacks confidence"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, found: str, instead: str, says: str) -> None:
    assert found in SMALL

    assert says in refusal_of(write(tmp_path, "small", SMALL.replace(found, instead, 1)))


@pytest.mark.parametrize(("content", "says"), [(b"\xff", "UTF-8"), (b"- a", "holds no keys"), (b"", "holds no keys")])
def test_a_file_that_is_no_profile_at_all_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_bytes(content)

    assert says in refusal_of(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert f"cannot read the site profile {tmp_path / 'none.yaml'}" in refusal_of(tmp_path / "none.yaml")


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in refusal_of(write(tmp_path, "small", "a: " + "[" * 5000 + "]" * 5000))


def test_words_such_as_no_stay_words(tmp_path: Path) -> None:
    text = SMALL.replace("kind: slurm", "kind: slurm\n  version: no")

    assert load_site_file(write(tmp_path, "small", text)).scheduler.version == "no"


# Extending


def test_a_profile_takes_what_it_does_not_say_from_the_one_it_extends(tmp_path: Path) -> None:
    write(tmp_path, "small", SMALL)
    child = """\
    schema: 1
    name: mine
    title: Mine
    extends: small
    queues:
      source: my own
      checked: 2026-11-22
      confidence: L
      default: null
      entries: [{name: all}]
    """

    profile = load_site_file(write(tmp_path, "mine", child), {SITE_PATH: str(tmp_path)})

    assert profile.title == "Mine"
    assert profile.scheduler.source == "the machine itself"
    assert profile.queues is not None
    assert [queue.name for queue in profile.queues.entries] == ["all"]
    assert profile.queues.default is None
    assert profile.queues.source == "my own"
    assert profile.queues.confidence == "L"


def test_a_block_made_of_two_is_no_surer_than_the_less_sure_one(tmp_path: Path) -> None:
    write(tmp_path, "small", SMALL.replace("confidence: H", "confidence: M"))
    scheduler = f"scheduler:\n  {ABOUT}\n  launcher: none\n"
    whole = f"queues:\n  {ABOUT}\n  default: null\n  entries: []\n"
    child = write(tmp_path, "mine", f"schema: 1\nname: mine\ntitle: Mine\nextends: small\n{scheduler}{whole}")

    profile = load_site_file(child, {SITE_PATH: str(tmp_path)})

    assert profile.scheduler.confidence == "M"
    assert profile.queues is not None
    assert profile.queues.confidence == "H"  # nothing of the other is left


def test_a_block_that_changes_something_says_itself_who_says_so(tmp_path: Path) -> None:
    write(tmp_path, "small", SMALL)
    child = "schema: 1\nname: mine\ntitle: Mine\nextends: small\nqueues:\n  default: long\n"

    text = refusal_of(write(tmp_path, "mine", child), {SITE_PATH: str(tmp_path)})

    assert ":5: queues: lacks source, checked, confidence" in text


def test_a_fault_of_the_extended_profile_is_told_with_that_files_name(tmp_path: Path) -> None:
    parent = write(tmp_path, "small", SMALL.replace("max_nodes: 2", "max_node: 2"))
    child = write(tmp_path, "mine", "schema: 1\nname: mine\ntitle: Mine\nextends: small\n")

    assert refusal_of(child, {SITE_PATH: str(tmp_path)}).startswith(f"{parent}:20: ")


def test_profiles_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "one", "schema: 1\nname: one\ntitle: One\nextends: two\n")
    write(tmp_path, "two", "schema: 1\nname: two\ntitle: Two\nextends: one\n")

    assert "goes round in a circle: one → two → one" in refusal_of(first, {SITE_PATH: str(tmp_path)})


def test_a_profile_that_extends_nothing_known_lists_what_is_known(tmp_path: Path) -> None:
    path = write(tmp_path, "mine", "schema: 1\nname: mine\ntitle: Mine\nextends: frontjer\n")

    text = refusal_of(path)

    assert text.startswith(f"{path}:4: extends: unknown site 'frontjer'; valid: ")
    assert "frontier" in text


# Finding


def test_a_users_profile_may_extend_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    child = f"""\
schema: 1
name: frontier
title: Frontier, as we use it
extends: frontier
paths:
  {ABOUT}
  shared: /lustre/orion/ours/proj-shared
"""
    write(tmp_path, "frontier", child)

    profile = load_site("frontier", {SITE_PATH: str(tmp_path)})

    assert profile.title == "Frontier, as we use it"
    assert profile.paths is not None
    assert profile.paths.shared == "/lustre/orion/ours/proj-shared"
    assert profile.paths.purge_after == timedelta(days=90)


def test_the_first_folder_of_the_path_wins_and_all_are_listed(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, "small", SMALL)
    write(second, "small", SMALL)
    write(second, "other", SMALL)

    found = {file.name: file for file in find_sites({SITE_PATH: f"{first}:{second}:{tmp_path / 'missing'}"})}

    assert found["small"].path == first / "small.yaml"
    assert found["other"].path == second / "other.yaml"
    assert not found["small"].shipped
    assert found["frontier"].shipped


def test_profiles_are_found_in_the_home_folder(tmp_path: Path) -> None:
    write(tmp_path / "home/.config/rhapsody/sites", "small", SMALL)

    assert load_site("small", {}).name == "small"


def test_an_unknown_site_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match="unknown site 'mars'; valid: anvil, aurora, delta"):
        load_site("mars", {})


def test_the_profile_in_the_documentation_is_valid(tmp_path: Path) -> None:
    first_page = Path(__file__).parents[4] / "docs" / "sites" / "README.md"
    whole, own = re.findall(r"```yaml\n(.*?)```", first_page.read_text(), re.DOTALL)

    mycluster = load_site_file(write(tmp_path, "mycluster", whole), {})
    frontier = load_site_file(write(tmp_path, "frontier", own), {})

    assert [queue.name for queue in mycluster.queue_entries] == ["normal", "gpu", "debug"]
    assert frontier.queue("batch").bins


# Schema


def test_the_schema_knows_every_block_and_no_other_keys() -> None:
    schema = json_schema()

    assert schema["additionalProperties"] is False
    assert {"schema", "scheduler", "queues", "container"} <= schema["properties"].keys()
    assert schema["required"] == ["schema", "name", "title"]
    assert schema["$defs"]["Scheduler"]["required"] == ["source", "checked", "confidence"]
    assert all(each["additionalProperties"] is False for each in schema["$defs"].values() if "properties" in each)
