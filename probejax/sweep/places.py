"""Where a run reads its model, and which of its SAEs reads which of these places."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from probejax import foreign, models, probes, saes, sites
from probejax.saes import SaeFile
from probejax.sites import Site
from probejax.sweep.config import Config

_USUAL_SHARE = 0.01  # of latents active in an SAE whose L0 nobody recorded
DEFAULT_LAYERS = {"gemma-3-270m": 9, "gemma-2-9b": 20, "gemma-2-2b": 12}  # resid_post


def find_saes(
    config: Config, cache_dir: str | Path | None, methods: Iterable[str], model: str
) -> list[SaeFile]:
    """Returns the SAEs that are given, or else ship for the model; none if no method reads them.

    Raises:
      ValueError, FileNotFoundError, ArtifactError: one does not exist, or none ships.
    """
    if not any(probes.parse(method).k for method in methods):
        return []
    found = [saes.find(spec, cache_dir=cache_dir) for spec in config.sae]
    found = found or list(saes.shipped(model))
    if not found:
        raise ValueError(
            f"No SAE ships with probejax for {model}; give --sae, or leave the sae_k methods out "
            "of --methods."
        )
    return found


def find_sites(
    config: Config, model: models.ModelConfig, name: str, found: Sequence[SaeFile] = ()
) -> tuple[Site, ...]:
    """Returns where a run reads its model, in the order in which it computes that.

    Args:
      config: the run.
      model: its numbers.
      name: of the model.
      found: SAEs, whose sites are taken where the run names none.

    Raises:
      ValueError: the model has not such a site, or nothing says which is meant.
    """
    given: Iterable[Site | str | int] = config.named_sites
    if not given:
        given = {site for sae in found if (site := sae.default_site)}
        if not given and name in DEFAULT_LAYERS:
            given = {DEFAULT_LAYERS[name]}
        if not given:
            given = {site for sae in saes.shipped(name) if (site := sae.default_site)}
        if not given:
            raise ValueError(f"Nothing says where {name} is to be read; give --site.")
    chosen = tuple(sorted(sites.expand(given, model.n_layers)))
    model.check(chosen)
    return chosen


def with_controls(
    config: Config, found: Sequence[SaeFile], chosen: Sequence[Site], cache_dir: str | Path | None
) -> dict[str, tuple[SaeFile, tuple[Site, ...]]]:
    """Returns the SAEs by their ids, each with the sites at which it is used.

    Those with random weights that stand beside others as controls are used where these are.

    Args:
      config: the run, which says whether there are controls.
      found: SAEs.
      chosen: sites of the run.
      cache_dir: where downloads live.

    Raises:
      ValueError: two have one id, or would share files of results.
    """
    own = config.activations is not None  # of which nobody knows where they were read
    pairs = [(sae, {site for site in chosen if own or sae.reads(site)}) for sae in found]
    if config.controls:
        random = lambda sae: saes.find(f"random:{sae.d_sae}:{_l0(sae):g}", cache_dir=cache_dir)
        pairs += [(random(sae), here) for sae, here in pairs]
    placed: dict[str, tuple[SaeFile, tuple[Site, ...]]] = {}
    for sae, here in pairs:
        first, there = placed.get(sae.sae_id, (sae, ()))
        if sae.path != first.path:
            raise ValueError(
                f"{sae.path} and {first.path} would both be called {sae.sae_id} in the "
                "results; rename a folder of one of them."
            )
        placed[sae.sae_id] = (sae, tuple(sorted(here | set(there))))
    named: dict[str, str] = {}
    for sae_id in placed:
        if (other := named.setdefault(foreign.file_name(sae_id), sae_id)) != sae_id:
            raise ValueError(
                f"The SAEs {other} and {sae_id} would share files of results, whose names have an "
                "underscore for each slash; rename a folder of one of them."
            )
    return placed


def _l0(sae: SaeFile) -> float:
    return sae.l0 or max(1.0, _USUAL_SHARE * sae.d_sae)
