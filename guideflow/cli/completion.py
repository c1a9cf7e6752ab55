"""What a shell may complete: names, and the options after the colon of a name. Nothing is said when something fails."""

import re
from collections.abc import Callable
from functools import wraps

from guideflow import registry
from guideflow._given import one_of


def _quiet(complete: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    @wraps(complete)
    def quietly(incomplete: str) -> list[str]:
        try:
            return complete(incomplete)
        except Exception:  # a shell has no place for a message
            return []

    return quietly


@_quiet
def samplers(incomplete: str) -> list[str]:
    """Complete the value of --sampler."""
    return _typed("sampler", incomplete)


@_quiet
def losses(incomplete: str) -> list[str]:
    """Complete the value of --loss, which may begin with a weight."""
    weight = re.match(r"[^*:]*\*\s*", incomplete)
    head = weight[0] if weight else ""
    return [head + found for found in _typed("loss", incomplete[len(head) :])]


@_quiet
def solvers(incomplete: str) -> list[str]:
    """Complete the value of --solver."""
    return _typed("solver", incomplete)


@_quiet
def metrics(incomplete: str) -> list[str]:
    """Complete the value of --metric."""
    return _typed("metric", incomplete)


@_quiet
def names(incomplete: str) -> list[str]:
    """Complete a name of any kind."""
    found = {offer.name for kind in registry.HOOKS for offer in registry.offers(kind)}
    return sorted(name for name in found if name.startswith(incomplete))


@_quiet
def kinds(incomplete: str) -> list[str]:
    """Complete what `guideflow list` lists."""
    return [one for one in map(registry.plural, registry.HOOKS) if one.startswith(incomplete)]


@_quiet
def written(incomplete: str) -> list[str]:
    """Complete what `guideflow init-plugin` can write."""
    return [one for one in registry.HOOKS if one.startswith(incomplete)]


def _typed(kind: str, incomplete: str) -> list[str]:
    name, colon, rest = incomplete.partition(":")
    known = [offer.name for offer in registry.offers(kind)]
    if not colon:
        return [one for one in known if one.startswith(name)]
    if name not in known:
        return []
    before, comma, last = rest.rpartition(",")
    if "=" in last:
        return []  # the shell completes the names of files itself
    given = {part.partition("=")[0] for part in before.split(",")}
    options = [option.name for option in registry.options(registry.factory(kind, name)) or ()]
    return [f"{name}:{before}{comma}{one}=" for one in options if one.startswith(last) and one not in given]


BASH = """\
# guideflow: completion for bash. Load it by: eval "$(guideflow completion bash)"
_guideflow_completion() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" words count current
    IFS=' ' read -ra words <<< "$line"
    [[ "$line" == *" " ]] && words+=("")
    count=$((${#words[@]} - 1))
    current="${words[count]}"
    COMPREPLY=( $( env COMP_WORDS="$line" COMP_CWORD=$count _GUIDEFLOW_COMPLETE=complete_bash $1 ) )
    # bash splits words at : and =, and completes what comes after the last of them.
    if [[ "$current" == *[:=]* ]]; then
        local before="${current%"${current##*[:=]}"}"
        COMPREPLY=( "${COMPREPLY[@]#"$before"}" )
    fi
    [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _guideflow_completion guideflow"""


def listen() -> None:
    """Answer the shells that ask what can be typed: typer does so only for apps that install completion themselves."""
    from typer._completion_classes import completion_init

    completion_init()


def script(shell: str) -> str:
    """Return the script that makes a shell complete: "bash", "zsh", "fish", "powershell" or "pwsh"."""
    from typer._completion_shared import get_completion_script

    one_of("shell", shell, ("bash", "zsh", "fish", "powershell", "pwsh"))
    if shell == "bash":
        return BASH
    return get_completion_script(prog_name="guideflow", complete_var="_GUIDEFLOW_COMPLETE", shell=shell)
