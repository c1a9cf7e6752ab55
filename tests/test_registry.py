"""Discovery, options, breakage and clashes, with distributions that are only pretended."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import guideflow as gf
from guideflow import registry
from guideflow.errors import BrokenPlugin, DuplicatePlugin, InvalidArgument, MissingExtra, UnknownPlugin
from guideflow.registry import hooks, loading
from guideflow.testing import fake_distribution

LOSS = """
import guideflow as gf

class Dark(gf.AbstractLoss):
    '''Darkens the picture.

    More text that no listing shows.
    '''
    def __init__(self, *, weight: float = 2.0, mask=None):
        self.weight = weight
    def __call__(self, image):
        return self.weight * image.flatten(1).mean(1)

@gf.hookimpl
def guideflow_losses():
    return {NAMES}
"""


def losses(*names):
    """Source of a module that offers a loss under each name."""
    return LOSS.replace("NAMES", ", ".join(f"{name!r}: Dark" for name in names))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Pretend to install a distribution; everything is as before afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def add(entry_point, source, **kwargs):
        fake_distribution(tmp_path, entry_point, source, **kwargs)
        importlib.invalidate_caches()
        registry.refresh()

    yield add
    registry.refresh()
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def test_a_third_party_loss_is_one_file_and_one_line(install):
    install("dark = plugin_dark", losses("dark"))
    loss = gf.load_loss("dark", weight=3.0)
    assert loss.weight == 3.0
    entry = registry.find("loss", "dark").entry
    assert entry.summary == "Darkens the picture."


def test_listing_plugins_imports_none(install):
    install("dark = plugin_dark", losses("dark"))
    found = [plugin for plugin in gf.plugins() if plugin.name == "dark"]
    assert found == [registry.Plugin("dark", "plugin_dark", "plugin_dark", "0.1")]
    assert "plugin_dark" not in sys.modules


def test_only_the_namesake_is_imported(install):
    install("dark = plugin_dark", losses("dark"))
    install("light = plugin_light", losses("light"))
    gf.load_loss("light")
    assert "plugin_light" in sys.modules and "plugin_dark" not in sys.modules


def test_a_name_that_is_no_entry_point_is_found_by_asking_everyone(install):
    install("dark = plugin_dark", losses("dark", "darker"))
    assert gf.load_loss("darker").weight == 2.0


def test_two_entry_points_to_one_module_count_once(install):
    install("dark = plugin_dark", losses("dark", "darker"))
    install("darker = plugin_dark", losses("dark", "darker"), name="plugin-darker")
    assert [offer.name for offer in registry.offers("loss") if offer.name.startswith("dark")] == ["dark", "darker"]


def test_a_name_claimed_twice_is_refused_naming_both(install):
    install("dark = plugin_dark", losses("dark"))
    install("dark = plugin_other", losses("dark"), name="other")
    with pytest.raises(DuplicatePlugin, match=r"other \(plugin_other\) and plugin_dark \(plugin_dark\)") as caught:
        gf.load_loss("dark")
    assert "Uninstall one" in str(caught.value)


def test_a_broken_plugin_harms_no_other_and_is_named_with_its_reason(install):
    install("broken = plugin_broken", "raise RuntimeError('no such\\n  thing')")
    install("dark = plugin_dark", losses("dark"))
    gf.load_loss("dark")
    with pytest.raises(UnknownPlugin) as caught:
        gf.load_loss("darl")
    message = str(caught.value)
    assert "There is no loss named 'darl'. Did you mean 'dark'?" in message
    assert "'broken' of plugin_broken (plugin_broken) failed with RuntimeError: no such thing." in message
    assert "\n" not in message


def test_a_broken_plugin_that_is_asked_for_says_why(install):
    install("dark = plugin_dark", "import no_such_module_anywhere")
    with pytest.raises(BrokenPlugin, match=r"'dark' cannot be loaded.*No module named 'no_such_module_anywhere'"):
        gf.load_loss("dark")


@pytest.mark.parametrize(
    "body", ["raise RuntimeError('in the hook')", "return ['not a mapping']", "return {'dark': 3 / 0}"]
)
def test_a_hook_that_fails_is_guarded(install, body):
    install("dark = plugin_dark", f"import guideflow as gf\n@gf.hookimpl\ndef guideflow_losses():\n    {body}\n")
    with pytest.raises(BrokenPlugin, match="'dark' cannot be loaded"):
        gf.load_loss("dark")
    assert registry.offers("solver")


def test_a_hook_with_the_wrong_arguments_is_reported(install):
    install("dark = plugin_dark", "import guideflow as gf\n@gf.hookimpl\ndef guideflow_losses(extra):\n    return {}\n")
    with pytest.raises(BrokenPlugin, match="PluginValidationError"):
        gf.load_loss("dark")


def test_a_missing_extra_comes_through_with_its_cure(install):
    source = """
import guideflow as gf

@gf.hookimpl
def guideflow_losses():
    gf.require("no_such_module_anywhere", extra="face")
"""
    install("dark = plugin_dark", source)
    with pytest.raises(MissingExtra, match=r"pip install 'guideflow\[face\]'"):
        gf.load_loss("dark")


def test_a_name_of_another_kind_is_pointed_out():
    with pytest.raises(UnknownPlugin, match="There is a solver of that name: use load_solver"):
        gf.load_loss("anchored")
    with pytest.raises(UnknownPlugin, match="Known names: anchored, annealed, auto, flowgrad, momentum"):
        gf.load_solver("nothing-like-it")


def test_unknown_and_missing_options_list_what_there_is(install):
    with pytest.raises(
        InvalidArgument, match=r"'anchored' has no option 'scal'. Did you mean 'scale'\? Options.*scale=1.0"
    ):
        gf.load_solver("anchored", scal=2)
    source = losses("dark").replace("*, weight: float = 2.0", "reference, *, weight: float = 2.0")
    install("dark = plugin_dark", source)
    with pytest.raises(
        InvalidArgument, match=r"needs 'reference'. Options of 'dark': reference \(required\), weight=2.0"
    ):
        gf.load_loss("dark", weight=1.0)


def test_options_are_read_from_the_signature():
    def factory(reference: str, *, scale: float = 1.0, plain=None): ...

    found = registry.options(factory)
    assert [(o.name, o.type, o.default) for o in found] == [
        ("reference", "str", None),
        ("scale", "float", "1.0"),
        ("plain", "", "None"),
    ]
    assert registry.options(lambda **kwargs: None) is None


def test_a_recipe_tells_how_an_object_was_loaded(install):
    solver = gf.load_solver("anchored", scale=0.5)
    assert gf.recipe(solver) == {"name": "anchored", "options": {"scale": 0.5}}
    assert gf.recipe(gf.Anchored(scale=0.5)) is None, "equal, but not loaded by name"
    install("dark = plugin_dark", losses("dark"))
    loss = gf.load_loss("dark", mask=Path("a") / "b.png")
    assert gf.recipe(loss) == {"name": "dark", "options": {"mask": str(Path("a/b.png"))}}
    assert gf.recipe(gf.load_loss("dark", mask=object())) is None, "JSON cannot hold the option"


def test_a_recipe_lives_no_longer_than_its_object():
    solver = gf.load_solver("anchored")
    key = id(solver)
    assert key in loading._recipes
    del solver
    assert key not in loading._recipes


def test_require_names_the_command_only_for_what_is_missing(install):
    assert gf.require("math", extra="all").pi > 3
    with pytest.raises(MissingExtra, match=r"no_such is needed.*pip install 'guideflow\[style\]'"):
        gf.require("no_such.part", extra="style")
    install("inner = plugin_inner", "import no_such_module_anywhere")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere") as caught:
        gf.require("plugin_inner", extra="style")
    assert not isinstance(caught.value, MissingExtra)


LAZY = """
import guideflow as gf

def __getattr__(name):
    raise AssertionError(f"{name} was asked for")

def __dir__():
    return [*globals(), "Heavy"]

@gf.hookimpl
def guideflow_losses():
    return {"dark": gf.Entry("FACTORY", "Darkens")}
"""


def test_a_factory_may_be_named_and_is_imported_only_when_it_is_called_for(install, tmp_path):
    (tmp_path / "plugin_heavy.py").write_text(losses("darkest"))
    install("dark = plugin_dark", LAZY.replace("FACTORY", "plugin_heavy:Dark"))
    assert [offer.entry.summary for offer in registry.offers("loss") if offer.name == "dark"] == ["Darkens"]
    assert "plugin_heavy" not in sys.modules
    assert gf.load_loss("dark", weight=3.0).weight == 3.0
    with pytest.raises(InvalidArgument, match=r"has no option 'wight'. Did you mean 'weight'"):
        gf.load_loss("dark", wight=3.0)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("no_such_module_anywhere:Dark", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("math:Dark", "AttributeError: module 'math' has no attribute 'Dark'"),
        ("math:pi", "is 3.14.*Expected a class or a function"),
        ("not a name", "ValueError"),
    ],
)
def test_a_named_factory_that_is_not_there_says_why(install, factory, reason):
    install("dark = plugin_dark", LAZY.replace("FACTORY", factory))
    with pytest.raises(BrokenPlugin, match=f"{factory}.*{reason}"):
        gf.load_loss("dark")


def test_every_named_factory_of_guideflow_can_be_imported():
    for kind in registry.HOOKS:
        for offer in registry.offers(kind):
            assert callable(offer.entry.resolve())


def test_every_kind_has_its_hook():
    assert set(registry.HOOKS.values()) == {name for name in vars(hooks) if name.startswith("guideflow_")}


@pytest.mark.parametrize("kind", ["sampler", "loss", "solver"])
def test_every_first_party_entry_has_a_namesake_entry_point_and_a_summary(kind):
    points = {plugin.name for plugin in gf.plugins() if plugin.distribution == "guideflow"}
    for offer in registry.offers(kind):
        assert offer.name in points, f"{offer.name} is found by the slow way only"
        assert offer.entry.summary
        if offer.entry.extra:
            tomllib = pytest.importorskip("tomllib")
            project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
            assert offer.entry.extra in project["optional-dependencies"]


@dataclass
class Unweakable:
    """Cannot be referenced weakly."""

    __slots__ = ()


def test_objects_that_cannot_be_watched_have_no_recipe(install):
    install(
        "slot = plugin_slot",
        "import guideflow as gf\n@gf.hookimpl\ndef guideflow_losses():\n    return {'slot': int}\n",
    )
    assert gf.recipe(loading._load("loss", "slot", {})) is None
