"""Discovery, options, breakage and clashes, with distributions that are only pretended."""

import copy
import dataclasses
import importlib
import json
import os
import random
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import guideflow as gf
from guideflow import registry
from guideflow.__main__ import main
from guideflow.errors import BrokenPlugin, DuplicatePlugin, InvalidArgument, MissingExtra, UnknownPlugin
from guideflow.registry import hooks
from guideflow.testing import fake_distribution

LOSS = """
import guideflow as gf

class Dark(gf.Loss):
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


def test_one_entry_point_serves_every_name_of_a_package(install):
    install("shades = plugin_dark", losses("dark", "darker"))
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


def test_a_broken_plugin_that_is_called_like_the_name_says_why(install):
    install("dark = plugin_dark", "import no_such_module_anywhere")
    with pytest.raises(
        BrokenPlugin, match=r"'dark' cannot be loaded.*No module named 'no_such_module_anywhere'"
    ) as found:
        gf.load_loss("dark")
    assert isinstance(found.value.__cause__, ModuleNotFoundError), "with its traceback"


@pytest.mark.parametrize(
    "body",
    [
        "raise RuntimeError('in the hook')",
        "raise SystemExit(3)",
        "return ['not a mapping']",
        "return {'dark': 3 / 0}",
        "return {'dark': 3}",
        "return {3: dict}",
        "return {'[red]dark': dict}",
        "return {'dark': gf.Entry(dict, None)}",
        "return {'dark': gf.Entry(dict, 3)}",
        "return {'dark': gf.Entry(dict, 'Dark', licence=3)}",
        "return {'dark': gf.Entry(dict, 'Dark', needs='face')}",
        "return {'dark': gf.Entry(dict, 'Dark', downloads=('a/b',))}",
        "return {'dark': gf.Entry(dict, 'Dark', footprint=3)}",
    ],
)
def test_a_hook_that_fails_is_guarded(install, capsys, body):
    install("dark = plugin_dark", f"import guideflow as gf\n@gf.hookimpl\ndef guideflow_losses():\n    {body}\n")
    with pytest.raises(BrokenPlugin, match="'dark' cannot be loaded"):
        gf.load_loss("dark")
    assert registry.offers("solver") and main(["list"]) == 0
    assert "The plugin 'dark' of plugin_dark could not be loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import sys; sys.exit('gone')", "SystemExit: gone"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E", "E: of which it cannot say more"),
        ("raise ValueError('y ' * 10**6)", r"ValueError: (y )+\.\.\."),
    ],
)
def test_what_a_module_does_at_import_is_guarded(install, capsys, body, says):
    install("dark = plugin_dark", body)
    with pytest.raises(BrokenPlugin, match=says):
        gf.load_loss("dark")
    assert main(["list"]) == 0
    assert len(capsys.readouterr().err) < 1000


CHANGES = """
import os, random, sys, torch
print("hello from a plugin")
os.chdir("/")
sys.path.clear()
sys.argv[:] = ["other"]
random.seed(1), torch.manual_seed(1), torch.set_default_dtype(torch.float64), torch.set_num_threads(7)
sys.stdout.close()
sys.stdout = sys.stderr = None
"""


@pytest.mark.parametrize("ends", ["", "raise ValueError('gone')"])
def test_what_a_module_changes_of_the_process_is_put_back(install, capsys, tmp_path, monkeypatch, ends):
    def state():
        torch_state = torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads()
        numbers = None if "typechecker" in sys.modules else random.getstate()  # which that one draws from itself
        return os.getcwd(), [*sys.path], [*sys.argv], numbers, sys.stdout, sys.stderr, torch_state

    monkeypatch.chdir(tmp_path)
    install("dark = plugin_dark", CHANGES + (ends or losses("dark")))
    before = state()
    offered = [offer.name for offer in registry.offers("loss")]
    assert state() == before
    assert ("dark" in offered) == (not ends) and "avatars-identity" in offered
    assert capsys.readouterr() == ("", "hello from a plugin\n")


def test_what_a_factory_changes_where_it_is_imported_is_put_back(install, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin_dark_inside.py").write_text("import os; os.chdir('/')\n" + losses())
    entry = "import guideflow as gf\n@gf.hookimpl\ndef guideflow_losses():\n    return {'dark': gf.Entry("
    install("dark = plugin_dark", entry + "'plugin_dark_inside:Dark', 'Darkens.')}")
    gf.load_loss("dark")
    assert Path.cwd() == tmp_path


NOISY = LOSS.replace("self.weight = weight", "print('made')").replace("return self.weight *", "print('seen'); return")
NOISY = "print('imported')\n" + NOISY.replace("NAMES", "'noisy': Dark")


def test_what_a_plugin_prints_is_no_part_of_what_programs_read(install, capsys, tmp_path):
    install("noisy = plugin_noisy", NOISY)
    run = [
        "run",
        "--sampler",
        "toy-mixture:size=8",
        "--loss",
        "noisy",
        "--iterations",
        "1",
        "--out",
        str(tmp_path / "a"),
    ]
    for command in (["list"], ["info", "noisy"], run):
        assert main([*command, "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)
    assert "made" in printed.err and "seen" in printed.err
    main(["list", "--json", "--help"])
    assert "Show what can be loaded" in capsys.readouterr().out


def test_control_c_while_a_plugin_is_asked_is_the_users(install, monkeypatch):
    install("dark = plugin_dark", "")

    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Thread.join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gf.load_loss("dark")


@pytest.mark.parametrize("damage", ["no metadata", "entry points"])
def test_a_distribution_that_is_damaged_harms_no_other(install, tmp_path, damage):
    install("dark = plugin_whole", losses("dark"))
    install("half = plugin_half", losses("half"))
    folder = tmp_path / "plugin_half-0.1.dist-info"
    if damage == "no metadata":  # as an interrupted `pip uninstall` leaves it
        (folder / "METADATA").unlink()
    else:
        (folder / "entry_points.txt").write_text("[guideflow\nhalf\n= = [\x00\n[guideflow]\nno equals sign\n")
    registry.refresh()
    assert gf.load_loss("dark") and registry.offers("solver")
    assert main(["list"]) == 0


def test_a_hook_with_the_wrong_arguments_is_reported(install):
    install("dark = plugin_dark", "import guideflow as gf\n@gf.hookimpl\ndef guideflow_losses(extra):\n    return {}\n")
    with pytest.raises(BrokenPlugin, match="PluginValidationError"):
        gf.load_loss("dark")


def test_a_missing_extra_is_told_with_its_cure(install):
    source = """
import guideflow as gf

@gf.hookimpl
def guideflow_losses():
    gf.require("no_such_module_anywhere", extra="face")
"""
    install("dark = plugin_dark", source)
    with pytest.raises(BrokenPlugin, match=r"pip install 'guideflow\[face\]'"):
        gf.load_loss("dark")


def test_a_name_of_another_kind_is_pointed_out():
    with pytest.raises(UnknownPlugin, match="There is a solver of that name: use load_solver"):
        gf.load_loss("anchored")
    with pytest.raises(UnknownPlugin, match="Known names: anchored, annealed, auto, best-of, dno, flowchef"):
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


def test_a_default_that_cannot_be_written_harms_no_message(install, capsys):
    source = "class Mute:\n    def __repr__(self): raise ZeroDivisionError\n"
    install("dark = plugin_dark", source + losses("dark").replace("mask=None", "mask=Mute(), other=None"))
    assert main(["info", "dark"]) == 0 and "a Mute" in capsys.readouterr().out
    assert gf.load_loss("dark").weight == 2
    with pytest.raises(InvalidArgument, match="a Mute"):
        gf.load_loss("dark", nothing=1)


def test_of_a_long_name_a_message_tells_the_beginning():
    for kind in registry.HOOKS:
        with pytest.raises(UnknownPlugin) as caught:
            registry.find(kind, "a" * 5000)
        assert len(str(caught.value)) < 1000


def test_options_are_read_from_the_signature():
    def factory(reference: str, *, scale: float = 1.0, plain=None): ...

    found = registry.options(factory)
    assert [(o.name, o.type, o.default) for o in found] == [
        ("reference", "str", None),
        ("scale", "float", "1.0"),
        ("plain", "", "None"),
    ]
    assert registry.options(lambda **kwargs: None) is None


SOLVERS = """
import dataclasses
import guideflow as gf

@dataclasses.dataclass(frozen=True)
class Sign(gf.ControlSolver):
    '''Moves by the sign.'''

    name = "sign"
    step: float = 0.1

    def move(self, problem, state):
        return gf.Move.of_controls(-self.step * state.rollout.gradients[1:].sign())

@gf.hookimpl
def guideflow_solvers():
    return {"sign": Sign}
"""


def test_an_object_tells_how_it_was_loaded_for_as_long_as_that_is_true(install):
    install("dark = plugin_dark", losses("dark"))
    loss = gf.load_loss("dark", mask=Path("a") / "b.png")
    assert registry.config(loss) == {"name": "dark", "options": {"mask": str(Path("a/b.png"))}}
    assert registry.config(copy.deepcopy(loss)) == registry.config(loss)
    assert registry.config(gf.load_loss("dark", mask=object())) is None, "JSON cannot hold the option"
    assert registry.config(type(loss)(mask=None)) is None, "made by hand"
    sampler = gf.load_sampler("toy-linear", num_steps=2)
    assert registry.config(sampler) == {"name": "toy-linear", "options": {"num_steps": 2}}


def test_a_solver_tells_all_its_options_however_it_was_made_and_by_whom(install):
    install("sign = plugin_sign", SOLVERS)
    flowgrad = registry.config(gf.FlowGrad(scale=0.5))
    assert flowgrad["name"] == "flowgrad" and flowgrad["options"]["scale"] == 0.5 and len(flowgrad["options"]) > 1
    assert registry.config(gf.load_solver("flowgrad", scale=0.5)) == flowgrad
    sign = type(gf.load_solver("sign"))
    assert registry.config(sign()) == {"name": "sign", "options": {"step": 0.1}}
    assert registry.config(dataclasses.replace(gf.load_solver("sign"), step=0.3))["options"] == {"step": 0.3}
    assert registry.config(gf.Momentum(sign(0.2)))["options"]["solver"] == {"name": "sign", "options": {"step": 0.2}}
    assert registry.config(gf.Momentum(type("Other", (sign,), {})())) is None, "nothing loads what is inside"


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


def test_every_first_party_entry_has_a_summary_and_an_extra_that_exists():
    extras = metadata.metadata("guideflow").get_all("Provides-Extra")
    for offer in (offer for kind in registry.HOOKS for offer in registry.offers(kind)):
        assert offer.entry.summary and (offer.entry.extra or extras[0]) in extras


def test_an_object_that_takes_no_attribute_has_no_config(install):
    hook = "import guideflow as gf\n@gf.hookimpl\ndef guideflow_losses():\n    return {'slot': lambda: len}\n"
    install("slot = plugin_slot", hook)
    assert registry.config(gf.load_loss("slot")) is None


@pytest.mark.parametrize(("kind", "plural"), [("sampler", "samplers"), ("loss", "losses"), ("solver", "solvers")])
def test_what_a_factory_makes_is_of_its_kind(install, kind, plural):
    hook = f"import guideflow as gf\n@gf.hookimpl\ndef guideflow_{plural}():\n    return {{'odd': int}}\n"
    install("odd = plugin_odd", hook)
    with pytest.raises(BrokenPlugin, match=rf"The {kind} 'odd' is made as a int\. Expected .* offered by plugin_odd"):
        getattr(gf, f"load_{kind}")("odd")
