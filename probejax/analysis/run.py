"""What is known of a run beside its results: how far it is, on what it ran, latents chosen."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypedDict

from etils import epath

from probejax import foreign, storage, tasks
from probejax.analysis.grid import GROUP
from probejax.analysis.labels import percent
from probejax.probes.methods import Method, parse_any

_SHOWN = 10  # latents of a task in the report


class Latent(NamedTuple):
    """A latent that a probe chose: its mean activation in both classes, and its page."""

    index: int
    mean_0: float
    mean_1: float
    link: str | None


Where = tuple[str, str, str]
"""A protocol, a model and a site: results are compared within one."""


class Run(NamedTuple):
    """A run, read once.

    Attributes:
      payloads: of the finished units.
      config: of the run; empty where the folder has none.
      done: finished units.
      expected: units that the run has when it is complete, as far as it can be told; None if not.
      facts: what the report says of the run's origin, by name.
      latents: of each protocol, model and site: task -> SAE probe -> latents under standard
        conditions.
      families: the family of each task of one's own, as far as the run has written it.
      left_out: a sentence for each task or regime that could not be had.
    """

    payloads: list[dict[str, Any]]
    config: dict[str, Any]
    done: int
    expected: int | None
    facts: dict[str, list[str]]
    latents: dict[Where, dict[str, dict[str, list[Latent]]]]
    families: dict[str, str]
    left_out: list[str]

    @property
    def own(self) -> tasks.Own | None:
        """Where the run's own data are, as `probejax.tasks` takes them."""
        return _own(self.config)

    @property
    def status(self) -> str:
        """How far the run is, in a sentence."""
        if self.expected is None or self.expected < self.done:
            return f"{self.done} units"
        if self.done == self.expected:
            return f"Complete: {self.done} units"
        share = self.done / self.expected
        return (
            f"Unfinished: {self.done} of {self.expected} units ({percent(share)}); "
            "everything here is about those alone"
        )


def check_finished(folder: epath.PathLike, run: Run) -> None:
    """Raises FileNotFoundError for a run without a finished unit."""
    if not run.done:
        raise FileNotFoundError(
            f"{folder} holds no finished units; run "
            f"`python -m experiments.sweep --out={folder}` first."
        )


class _Config(TypedDict, total=False):
    """What is read of a run's configuration."""

    tasks: list[str]
    methods: list[str]
    site: list[str] | str | int | None  # one alone is a text
    sae: list[str]
    data: str | None
    text_column: str | None
    label_column: str | None
    positive: str | None
    groups: str | None
    activations: str | None
    tasks_dir: str | None  # what `data` was called in older runs


class _Plan(TypedDict):
    """What a run writes before its first unit."""

    units: list[str]


class _Timing(TypedDict, total=False):
    """What is read of a unit's timing."""

    seconds: dict[str, Any]
    device: str
    jax: str
    float32: dict[str, int]


def read_run(out: epath.PathLike) -> Run:
    """Reads the finished units of a run; a run that is still going on is read as it stands.

    Raises:
        StorageError: a unit is damaged.
        DamagedFile: `config.json` is.
    """
    store = storage.Store(out)
    payloads = list(store.read_all())
    config = _config(epath.Path(out))
    latents: dict[Where, dict[str, dict[str, list[Latent]]]] = {}
    for payload in payloads:
        for task, probe, chosen in _latents(payload):
            protocol, model, site = (str(payload["unit"][name]) for name in GROUP)
            here = latents.setdefault((protocol, model, site), {})
            here.setdefault(task, {})[probe] = chosen
    units = [payload.get("unit", {}) for payload in payloads]
    left_out = read_left_out(epath.Path(out))
    expected = _planned(epath.Path(out))
    if expected is None:
        expected = _expected(config, units, left_out)
    facts = _facts(store, units)
    if groups := [
        f"{p['unit']['task']}: {_numbered(p['groups'])}" for p in payloads if "groups" in p
    ]:
        facts["groups, by number"] = sorted(set(groups))
    families = _families(epath.Path(out))
    alone = {p["unit"]["task"] for p in payloads} - {*tasks.STUDY_FAMILIES, *families}
    if alone:
        facts["families of tasks"] = [
            f"{len(alone)} tasks: not known which share prompts, so each is a family of its own"
        ]
    said = tasks.sentences(left_out)
    return Run(payloads, config, len(units), expected, facts, latents, families, said)


def _families(out: epath.Path) -> dict[str, str]:
    path = out / "families.json"
    if not path.exists():
        return {}
    return foreign.read_json(path, dict[str, str], "delete it; the next run writes it anew")


def read_left_out(out: epath.Path) -> tasks.LeftOut:
    """Returns what a run could not have, as it is stored: tasks, or regimes of a task, and why."""
    path = out / "left_out.json"
    if not path.exists():
        return {}
    return foreign.read_json(path, tasks.LeftOut, "delete it; the next run writes it anew")


def _config(out: epath.Path) -> dict[str, Any]:
    path = out / "config.json"
    if not path.exists():
        return {}
    return foreign.read_json(path, _Config, "restore it, or delete it to report without it")


def _planned(out: epath.Path) -> int | None:
    """Returns how many units the run wrote that it has; None of a run from before it said so."""
    path = out / "plan.json"
    if not path.exists():
        return None
    return len(foreign.read_json(path, _Plan, "delete it; the next run writes it anew")["units"])


def _expected(
    config: Mapping[str, Any], units: list[dict[str, Any]], left_out: tasks.LeftOut
) -> int | None:
    """Returns tasks x methods x sites or SAEs, as far as seen, less what cannot run.

    That is a guess, for folders in which no `plan.json` says it.
    """
    if not {"tasks", "methods"} <= set(config):
        return None
    try:
        if config.get("activations"):
            return None
        named = tasks.match(config["tasks"], _own(config))
        names = set(named) - {task for task, why in left_out.items() if isinstance(why, str)}
    except (ValueError, OSError):
        return None
    seen: dict[str, set[tuple[str, str]]] = {}
    for unit in units:
        where = (str(unit.get("sae_id") or ""), str(unit.get("site")))
        seen.setdefault(str(unit.get("method")), set()).add(where)
    given, places = len(config.get("sae", ())) or 1, _places(config)
    sources = []
    for method in config["methods"]:
        rules = parse_any(method)
        alike = [
            {pair for pair in pairs if pair[0]}
            for name, pairs in seen.items()
            if _kind(parse_any(name)) == _kind(rules)
        ]
        without = not any(sae_id for sae_id, _ in seen.get(method, [("?", "")]))
        # A random SAE is a control itself, and stands beside each SAE for what is no control.
        most = given * (2 if config.get("controls") and not rules.control else 1)
        if not config.get("sae") or places > 1:  # one that says no site is at all of them
            most = max([most, *map(len, alike)])
        sources.append(places if rules.family != "sae" or without else most)
    return len(names) * sum(sources)


def _places(config: Mapping[str, Any]) -> int:
    """Returns at how many sites a run reads its model; older runs do not say, and have one."""
    site = config.get("site")
    return len(site) if isinstance(site, list) else 1


def _kind(rules: Method) -> tuple[bool, bool]:
    return rules.family == "sae", bool(rules.control)


def _numbered(names: list[str]) -> str:
    return ", ".join(f"{number} = {name}" for number, name in enumerate(names))


def _own(config: Mapping[str, Any]) -> tasks.Own | None:
    path = config.get("data") or config.get("tasks_dir")
    settings = ("text_column", "label_column", "positive", "groups")
    return tasks.Own(path, *map(config.get, settings)) if path else None


def _facts(store: storage.Store, units: list[dict[str, Any]]) -> dict[str, list[str]]:
    names = {
        "model": "model",
        "weights": "weights, SHA-256",
        "site": "site",
        "dtype": "dtype of the model",
        "max_length": "longest prompt, tokens",
        "bos": "BOS before each prompt",
        "chat": "chat template, SHA-256",
        "position": "position in a prompt",
        "sae_id": "SAE",
        "sae_weights": "SAE weights, SHA-256",
        "ranking": "ranking of latents",
        "protocol": "protocol",
        "recipe": "recipe of the results",
    }
    facts = {}
    for field, name in names.items():
        values = sorted({str(unit[field]) for unit in units if unit.get(field) not in (None, "")})
        if values:
            facts[name] = values
    low = Counter[str]()
    seconds, known = 0.0, {"device": Counter[str](), "jax": Counter[str]()}
    for timing in _timings(store):
        seconds += sum(v for v in timing.get("seconds", {}).values() if isinstance(v, (int, float)))
        low.update(timing.get("float32", {}))
        for name, values in known.items():
            if timing.get(name):
                values[str(timing[name])] += 1
    for name, label in (("device", "device"), ("jax", "JAX")):
        if known[name]:
            facts[label] = [f"{value} ({n} units)" for value, n in known[name].most_common()]
    if low["fits"]:
        facts["fits by float32"] = [
            f"{low['fits']} on paths and at their ends, {low['on_host']} of them left to the host"
        ]
    if seconds:
        facts["time in units"] = [f"{seconds / 60:.1f} min"]
    return facts


def _timings(store: storage.Store) -> Iterator[dict[str, Any]]:
    if not store.timings.exists():
        return
    for path in store.timings.iterdir():
        with contextlib.suppress(OSError, ValueError):  # no result hangs on it
            yield foreign.read_json(path, _Timing, "delete it")


def _latents(payload: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Latent]]]:
    """Yields the task, the probe and the latents of a unit's standard condition.

    Units may say nothing of them, and those of controls are not asked. `latents` holds one list per
    fit of the unit, of objects `{index, mean: [class 0, class 1], link}`, the first ranked first.
    """
    unit, regimes = payload.get("unit", {}), payload.get("fits", {}).get("regime", [])
    chosen = payload.get("latents")
    method, sae_id = str(unit.get("method", "")), str(unit.get("sae_id") or "")
    random = (payload.get("sae") or {}).get("random") or sae_id.startswith("random/")
    if not isinstance(chosen, list) or parse_any(method).control or random:
        return
    for regime, cards in zip(regimes, chosen, strict=False):
        if regime == "standard" and isinstance(cards, list):
            found = [_latent(card) for card in cards[:_SHOWN] if isinstance(card, dict)]
            if found:
                yield unit["task"], f"{method} ({sae_id})", found
            return


def _latent(card: Mapping[str, Any]) -> Latent:
    means = [
        float("nan") if mean is None else float(mean) for mean in card.get("mean", (None, None))
    ]
    return Latent(int(card["index"]), means[0], means[1], card.get("link"))
