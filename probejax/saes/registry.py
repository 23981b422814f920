"""SAEs by name: the one that ships with the package, files, releases on the Hub, and controls."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from jaxtyping import Float

from probejax import foreign, sites
from probejax.artifacts import did_you_mean, exists, is_path, local_path, no_such_path
from probejax.saes import absent, formats, model_names, random_sae, releases, suites
from probejax.saes.formats import Files, Format
from probejax.saes.model_names import comparable, usual
from probejax.saes.sae import SAE
from probejax.saes.stored import StoredSAE
from probejax.sites import KINDS, LAYERS, Site

_SHIPPED = Path(__file__).parent / "shipped"
_RANDOM = "random"
_CALIBRATED = "2;"  # changes when random SAEs do
_WHOLE = 1 << 30  # bytes of a file that are hashed whole
_IN_MEMORY = 1 << 31  # bytes of float32 matrices that are loaded; larger SAEs stay in their file


class _Measured(msgspec.Struct):
    l0: Annotated[float, msgspec.Meta(ge=0)] | None = None


class _Options(msgspec.Struct):
    architecture: str | None = None


class _Record(msgspec.Struct):
    """What a training run writes beside its SAE, as far as it is needed here."""

    model: str | None = None
    site: str | None = None
    layer: Annotated[int, msgspec.Meta(ge=0, le=9999)] | None = None  # of records without a site
    quality: _Measured = msgspec.field(default_factory=_Measured)
    options: _Options = msgspec.field(default_factory=_Options)


@dataclasses.dataclass(frozen=True, repr=False)
class SaeFile:
    """An SAE on the disk and what is known about it; None where something is not recorded.

    Attributes:
      sae_id: its name in results.
      path: the file with its weights.
      model: the model it was trained on.
      layer: the block that it reads.
      kind: where in it, one of `sites.KINDS`, or what the file calls a place that is none of these.
      format: one of `formats.FORMATS`, or `random`.
      variant: how the file is read, see its format.
      d_model: width of what it reads.
      d_sae: number of latents.
      l0: advertised mean number of active latents.
      neuronpedia: id of its pages, such as `gemma-2-9b/20-gemmascope-res-16k`.
      architecture: what was trained, see `formats.Description` and `suites`.
      released: ISO date on which that was published, of SAEs in a known suite.
      centred: whether it reads vectors without their mean over d_model.
      prepends_bos: whether BOS stood before the texts that it was trained on.
    """

    sae_id: str
    path: Path
    model: str | None = None
    layer: int | None = None
    kind: str | None = None
    format: str = "gemma_scope"
    variant: str = "reference"
    d_model: int | None = None
    d_sae: int = 0
    l0: float | None = None
    neuronpedia: str | None = None
    architecture: str | None = None
    released: str | None = None
    centred: bool = False
    prepends_bos: bool | None = None

    def __repr__(self) -> str:
        """Says on one line what it is."""
        known = {
            "model": self.model,
            "site": self._place,
            "d_model": self.d_model,
            "d_sae": self.d_sae,
            "l0": self.l0,
        }
        words = [f"{name}={value}" for name, value in known.items() if value is not None]
        return f"SaeFile({', '.join([self.sae_id, self.format, *words])})"

    @property
    def site(self) -> Site | None:
        """Where it reads its model; None where that is not recorded, or is no site of ours."""
        if self.kind not in KINDS or self.layer is None or self.layer not in LAYERS:
            return None
        return Site(self.kind, self.layer)

    @property
    def default_site(self) -> Site | None:
        """The site of a run that names none; a layer alone is taken for its resid_post."""
        if self.site or self.kind or self.layer is None:
            return self.site
        return dataclasses.replace(self, kind="resid_post").site

    @property
    def _place(self) -> str | None:
        """What is known of where it reads, in words."""
        alone = None if self.layer is None else f"layer {self.layer}"
        return str(self.site) if self.site else self.kind or alone

    def facts(self) -> dict[str, str | float | None]:
        """Returns what results say of the SAE beside its name."""
        return {
            "architecture": self.architecture,
            "width": self.d_sae or None,
            "l0": self.l0,
            "layer": self.layer,
            "released": self.released,
            "link": self.neuronpedia,
            "random": self.format == _RANDOM,
        }

    def fingerprint(self) -> str:
        """Returns a hash of what decides its latents."""
        how = f"{self.format}@{self.variant};{'centred;' if self.centred else ''}"
        how += _CALIBRATED if self.format == _RANDOM else ""
        digest = hashlib.sha256(how.encode())
        for path in () if self.format == _RANDOM else self._files():
            if path is not None:
                _hash(path, digest)
        return digest.hexdigest()[:16]

    def _files(self) -> Files:
        foreign.require_regular(self.path)
        files = formats.FORMATS[self.format].files(self.path)
        if files is None:
            raise ValueError(f"{self.path} is no file of an SAE in the format {self.format}.")
        return files

    def description(self) -> dict:
        """Returns what its training recorded: measured quality and options; may be empty.

        Raises:
          ValueError: the record is damaged.
        """
        return _record(self.path, dict[str, Any]) or {}

    def open(self) -> StoredSAE:
        """Returns the SAE with its matrices left in the file.

        Raises:
          ValueError: the file is damaged or not an SAE.
        """
        with np.errstate(all="ignore"):  # what is not finite is refused, and warns of nothing
            return formats.FORMATS[self.format].load(self._files(), self.variant)

    def load(self, x: Float[np.ndarray, "n d_model"] | None = None) -> SAE | StoredSAE:
        """Loads the SAE, or only opens it if its matrices exceed 2 GiB in float32.

        Args:
          x: raw activations, on which a random SAE is calibrated.

        Raises:
          ValueError: the file is damaged or not an SAE, or a random SAE without activations.
        """
        if self.format == _RANDOM:
            if x is None or self.l0 is None:
                raise ValueError(f"{self.sae_id} needs activations to calibrate its thresholds on.")
            return random_sae.make(np.asarray(x), self.d_sae, self.l0)
        stored = self.open()
        return stored if 8 * stored.d_model * stored.d_sae > _IN_MEMORY else stored.load()

    def reads(self, site: Site) -> bool:
        """Tells whether a site is the one that it reads; what is not recorded fits."""
        if self.site is not None:
            return self.site == site
        return self.layer in (None, site.layer) and self.kind in (None, site.kind)

    def check(self, model: str, site: Site, width: int, others: Sequence[Site] = ()) -> str | None:
        """Checks that the SAE fits a run; returns a line to be shown where it fits but loosely.

        What is not recorded fits.

        An SAE of a base model may be used on the model of its family and size that was trained on
        instructions from there.

        Args:
          model: name of the run's.
          site: of the run, for this SAE.
          width: of its vectors.
          others: sites of the run that the SAE does not read either, for the message.

        Raises:
          ValueError: it reads another model, site or width; both sides are named.
        """
        note = None
        same = self.model is None or comparable(self.model) == comparable(model)
        if not same and model_names.instructed(self.model, model):
            note = (
                f"note: {self.sae_id} was trained on the base model {self.model}, the run is on "
                f"{model}; reconstructions may be worse there."
            )
        elif not same and model_names.is_known(model):
            raise ValueError(
                f"{self.sae_id} was trained on {self.model}, the run is on {model}; give an SAE of "
                "this model."
            )
        if not self.reads(site):
            places = ", ".join(map(str, (site, *others)))
            wanted = "one of these" if others else "that"
            if self.site:
                wanted += f", or add {self.site} to them" if others else f", or --site={self.site}"
            raise ValueError(
                f"{self.sae_id} reads {self._place}, the run is at {places}; give an SAE of "
                f"{wanted}."
            )
        if self.d_model not in (None, width):
            raise ValueError(
                f"{self.sae_id} reads vectors of width {self.d_model}, but those at {site} of "
                f"{model} have {width}; give an SAE of this model and site."
            )
        return note

    def note_on_bos(self, prepended: bool) -> str | None:
        """Returns a line on a run that puts BOS before texts and an SAE that knows none, or not.

        Args:
          prepended: whether the run puts BOS there.
        """
        if self.prepends_bos in (None, prepended):
            return None
        with_bos, rule = ("with", "always") if self.prepends_bos else ("without", "never")
        return (
            f"note: {self.sae_id} was trained on texts {with_bos} BOS before them, the run reads "
            f"them {'with' if prepended else 'without'}; --bos={rule} reads them as there."
        )


def _record(weights: Path, kind: Any) -> Any:
    """Returns what a training run wrote beside an SAE, None if there is no record."""
    path = weights.with_name("training.json")
    return foreign.read_json(path, kind, "delete it or restore it") if path.exists() else None


def _hash(path: Path, digest) -> None:
    """Hashes a file, or of a large one its size and 256 blocks spread over it."""
    block = 1 << 20
    with foreign.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        starts = range(0, size, block)
        if size > _WHOLE:
            starts = [i * (size - block) // 255 for i in range(256)]
        digest.update(f"{size};".encode())
        for start in starts:
            file.seek(start)
            digest.update(file.read(block))


def shipped(model: str) -> tuple[SaeFile, ...]:
    """Returns the SAEs that come with the package for a model."""
    return tuple(sae for sae in _all_shipped() if comparable(sae.model) == comparable(model))


def _all_shipped() -> list[SaeFile]:
    files = sorted(_SHIPPED.glob("**/params.npz"))
    found = [_describe(path, sae_id=str(path.parent.relative_to(_SHIPPED))) for path in files]
    return [sae for sae in found if sae is not None]


def _describe(path: Path, variant: str = "", sae_id: str = "") -> SaeFile | None:
    """Says what is at a place on the disk; None if it is no SAE."""
    detected = formats.detect(path)
    if detected is None:
        return None
    kind, files = detected
    if variant and variant not in kind.variants:
        raise ValueError(
            f"{path} is of the format {kind.name}, which cannot be read as @{variant}; "
            f"there is {', '.join('@' + name for name in kind.variants)}."
        )
    known = kind.describe(files)
    known = known._replace(l0=None if known.l0 is None else float(known.l0))
    found = SaeFile(
        sae_id or _sae_id(files.weights, kind),
        files.weights,
        format=kind.name,
        variant=variant or kind.variants[0],
        neuronpedia=releases.neuronpedia(str(files.weights)),
        **known._asdict(),
    )
    if variant and variant != kind.variants[0]:
        found = dataclasses.replace(found, sae_id=f"{found.sae_id}@{variant}")
    if series := suites.series_of(str(files.weights.parent)):
        known = {"architecture": series.architecture, "released": series.released}
        found = dataclasses.replace(found, **known)
    record = _record(files.weights, _Record) or _Record()
    where = record.layer if record.site is None else record.site
    site = None if where is None else sites.parse(where)
    recorded = {
        "model": record.model,
        "layer": site.layer if site else None,
        "kind": site.kind if site else None,
        "l0": record.quality.l0,
        "architecture": record.options.architecture,
    }
    return dataclasses.replace(found, **{k: v for k, v in recorded.items() if v is not None})


def _sae_id(weights: Path, kind: Format) -> str:
    """Returns the last folders' names, and the file's where one folder may hold several SAEs."""
    path = Path(os.path.abspath(weights))  # not resolved: the Hub's cache links to nameless files
    parts = path.parents[kind.weights.count("/")].parts[-3:]
    alone = path.match(kind.weights.replace("ae*", "ae")) and kind.weights[0] != "*"
    return "/".join(parts if alone else (*parts, path.stem))


def find(spec: str, *, cache_dir: str | Path | None = None) -> SaeFile:
    """Locates an SAE, and fetches its files if it is on the Hub.

    Args:
      spec: the id of a shipped SAE; a file, or a folder that holds one, in any of the formats; a
        release on the Hub, see `releases`; or `random:<width>:<l0>`. `@<variant>` after a file or
        release chooses how it is read, see `formats`.
      cache_dir: where fetched files live; see `probejax.artifacts.cache_dir`.

    Raises:
      FileNotFoundError: none of these; the message lists the shipped ones.
      ArtifactError: the files could not be fetched.
      ValueError: the file or a record beside it is damaged.
    """
    here = exists(local_path(spec))
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    if len(parts) > 1 and not here:
        each = " ".join(f"--sae={part}" for part in parts)
        raise FileNotFoundError(
            f"--sae={spec} is no single SAE; give the flag once for each: {each}"
        )
    if found := re.fullmatch(r"random:(\d+):(\d+(?:\.\d+)?)", spec):
        width, l0 = int(found[1]), float(found[2])
        name = f"random/width_{width}/average_l0_{l0:g}"
        return SaeFile(name, Path(spec), format=_RANDOM, d_sae=width, l0=l0)
    by_id = {sae.sae_id: sae for sae in _all_shipped()}
    if spec in by_id:
        return by_id[spec]
    where, variant = spec, ""
    if "@" in spec and not here:
        where, _, variant = spec.rpartition("@")
    path = local_path(where)
    if exists(path):
        if found := _describe(path, variant):
            return found
        raise FileNotFoundError(f"--sae={spec}: {absent.explain(path)}")
    where = releases.folder_of(where)
    if where in by_id and not variant:
        return by_id[where]
    first = where.partition("/")[0]
    ours = first in {each.partition("/")[0] for each in by_id}  # and no release of others
    if not ours and not is_path(where) and (release := releases.find(where)):
        folder = releases.fetch(release, cache_dir)
        if found := _describe(folder, variant, f"{release.repository}/{release.folder}"):
            return dataclasses.replace(found, model=found.model or usual(release.model))
    if is_path(where) or os.path.isdir(first):
        raise FileNotFoundError(f"--sae={spec}: {no_such_path(where)}")
    raise FileNotFoundError(
        f"--sae={spec} is neither a file or folder with an SAE, nor a release on the Hub such as "
        f"{releases.FAMILIES[0].example}, nor random:<width>:<l0>, nor one of the SAEs that come "
        f"with probejax: {', '.join(by_id) or 'none'}"
        f"{did_you_mean(where, by_id) or releases.did_you_mean(first) or '.'}"
    )


def load(spec: str, x: Float[np.ndarray, "n d_model"] | None = None) -> SAE | StoredSAE:
    """Finds and loads an SAE, see `find` and `SaeFile.load`.

    Raises:
      FileNotFoundError: there is no such SAE.
      ArtifactError: the files could not be fetched.
      ValueError: the file is damaged or not an SAE.
    """
    return find(spec).load(x)
