"""The docs: links, pictures, paths, commands and keys lead somewhere, and what they say of the project is so."""

import re
import shlex
import sys
import types
from collections import Counter
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import torch
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from markdown_it import MarkdownIt
from omegaconf import OmegaConf

import digitsum
from digitsum.cli.build import build_datamodule, model_arguments, register
from digitsum.cli.overrides import flatten
from digitsum.models.module import SumModule
from digitsum.models.registry import NETWORKS

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which speaks of what was
EXAMPLES = {"digitsum/models/linear.py", "conf/model/linear.yaml"}
"""Files that architecture.md shows how to make; a test of its own tries them."""


def name_of(page):
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)
current = pytest.mark.parametrize("page", CURRENT, ids=name_of)


def read(page):
    """What a page holds: `links` (pictures too), `pictures`, `anchors`, `code` (in lines), and `blocks` by language."""
    found = SimpleNamespace(links=[], pictures=[], anchors=[], code=[], blocks=[])
    heading = False
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            found.blocks.append((token.info, token.content))
        heading = token.type == "heading_open" or (heading and token.type == "inline")
        for child in token.children or ():
            if child.type == "link_open":
                found.links.append(child.attrs["href"])
            if child.type == "image":
                found.links.append(child.attrs["src"])
                found.pictures.append((page.parent / child.attrs["src"]).resolve())
            if child.type == "code_inline":
                found.code.append(child.content)
        if heading and token.type == "inline":
            words = "".join(child.content for child in token.children)
            found.anchors.append(re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"))  # as GitHub makes them
    return found


def targets(page):
    """The files and headings that a page's links lead to; addresses on the network are left alone."""
    for link in read(page).links:
        if not re.match(r"\w+:", link):
            path, _, anchor = unquote(link).partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


@pages
def test_every_link_leads_to_a_file_of_the_project_and_to_a_heading(page):
    for link, target, anchor in targets(page):
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in read(target).anchors, link


@pages
def test_no_two_headings_of_a_page_share_an_anchor(page):
    if page.name != "CHANGELOG.md":
        assert not [anchor for anchor, count in Counter(read(page).anchors).items() if count > 1]


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        new = {target for page in new for _, target, _ in targets(page) if target.suffix == ".md"} - reached
    assert reached == set(PAGES)


def test_every_picture_is_shown_once():
    shown = Counter(picture for page in PAGES for picture in read(page).pictures)
    assert shown == dict.fromkeys((ROOT / "docs" / "images").rglob("*.png"), 1)


def test_the_readme_is_a_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) < 2_000


@pages
def test_no_page_names_a_path_of_somebodys_machine(page):
    assert not re.findall(r"(?<![\w.])/(?:home|mnt|opt|root|tmp|usr|Users|work)\b", page.read_text())


@current
def test_every_path_of_the_project_that_a_page_names_is_there(page):
    found = read(page)
    named = set()
    for text in (*found.code, *(content for _, content in found.blocks)):
        named |= set(re.findall(r"(?<![\w./])(?:conf|digitsum|docs|scripts|tests)/[\w./]*\w(?:\.\w+)?", text))
    assert [path for path in named - EXAMPLES if not (ROOT / path).exists()] == []


# what the project is


def test_the_architecture_names_every_module_of_the_library():
    named = [target for _, target, _ in targets(ROOT / "docs" / "architecture.md") if target.suffix == ".py"]
    assert sorted(named) == sorted(path for path in (ROOT / "digitsum").rglob("*.py") if path.name != "__init__.py")


def test_the_readme_lists_what_is_in_the_project_and_in_the_library():
    (tree,) = [content for _, content in read(ROOT / "README.md").blocks if content.startswith("digitsum/")]
    names = [line.split()[0].rstrip("/") for line in tree.splitlines()]
    inside = [name for name, line in zip(names, tree.splitlines(), strict=True) if line.startswith(" ")]
    library = {path.name for path in (ROOT / "digitsum").iterdir()} - {"__init__.py", "__pycache__", "py.typed"}
    assert sorted(inside) == sorted(library)
    assert all((ROOT / name).is_dir() for name in set(names) - set(inside))


def test_the_citation_and_the_licence_agree_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == digitsum.__version__
    (author,) = citation["authors"]
    assert author["name"] in (ROOT / "LICENSE").read_text()
    assert author["name"] in (ROOT / "pyproject.toml").read_text()


def test_the_changelog_begins_with_the_version_that_is_made():
    first = read(ROOT / "CHANGELOG.md").anchors[1]
    assert first.startswith(digitsum.__version__.partition(".dev")[0].replace(".", ""))


def test_the_hooks_run_what_ci_runs_and_fetch_nothing():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}
    ci = (ROOT / ".ci" / "run").read_text()
    assert [hook["name"] for hook in hooks] == ["ruff check", "ruff format", "mypy", "lint-imports"]
    assert all(f"\n{hook['name']}" in ci for hook in hooks)


# commands and keys


@pytest.fixture
def composed():
    """Compose a script's config with overrides; of a sweep that of its first job."""
    register()

    def compose_(config, *words):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            first = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(list(words)), None)[0][0]
            return compose(config, first)

    yield compose_
    GlobalHydra.instance().clear()


def commands_of(page):
    """The commands of a page that are given to Hydra, as lists of words without flags."""
    found = read(page)
    for line in (*found.code, *(line for _, content in found.blocks for line in content.splitlines())):
        for part in line.split("&&"):
            match = re.match(
                r"\s*(?:python|torchrun) [^#]*?\bscripts/(train|predict|tune|make_data|export|demo|publish)\.py\b(.*)",
                part,
            )
            if match:
                yield match[1], [word for word in shlex.split(match[2], comments=True) if word[0] != "-"]


COMMANDS = sorted(
    {(config, *words) for page in CURRENT for config, words in commands_of(page) if "model=linear" not in words}
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_keys_and_values_of_every_command_are_taken(composed, command):
    config, *words = command
    cfg = composed(config, *words)
    if config in ("train", "tune"):
        model_arguments(cfg)
        build_datamodule(cfg)


def test_every_key_that_a_page_names_is_one_of_the_configs(composed):
    known = set()
    for config, *words in (
        ["train", "callbacks=early_stopping"],
        ["train", "model=reader", "data=arrays", "data.root=here"],
        ["tune"],
        ["predict"],
        ["make_data", "out=here"],
        ["export", "out=here"],
        ["publish", "ckpt_path=here", "name=reader-1"],
        ["demo"],
    ):
        known |= set(flatten(OmegaConf.to_container(composed(config, *words))))
    named = set()
    for page in CURRENT:
        for text in read(page).code:
            for word in text.split():
                match = re.fullmatch(r"'?[+~]?((?:augmentation|data|model)\.[a-z_0-9.]+)(=.*)?", word) or re.fullmatch(
                    r"'?~?((?:callbacks|pruning|search|trainer)\.[a-z_0-9.]+|[a-z]+_[a-z_]+)(=.*)", word
                )
                named |= {match[1]} if match else set()
    assert named - known == set()


def test_the_network_of_the_architecture_learns(monkeypatch):
    (code,) = [content for kind, content in read(ROOT / "docs" / "architecture.md").blocks if "(Network)" in content]
    module = types.ModuleType("linear")
    monkeypatch.setitem(sys.modules, "linear", module)  # dataclasses look for theirs
    exec(code, module.__dict__)
    monkeypatch.setitem(NETWORKS, "linear", (module.Linear, module.LinearSettings))
    model = SumModule("linear", (8, 8), module.LinearSettings(dropout=0.1))
    images, sums = torch.rand(16, 8, 8), torch.arange(16)
    (parameters,) = [group["params"] for group in model.configure_optimizers().param_groups]
    optimizer = torch.optim.SGD(parameters, 0.01)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(model.net.loss(model.net(images), sums))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert model(images).shape == model.predict(images).estimate.shape == (16,)
    with pytest.raises(digitsum.InputError, match="no such choice"):
        model.net.set_decoding(tta=2)
