"""SAEs by name: the one that ships with the package, and files."""

import dataclasses
import hashlib
import json
from pathlib import Path

from probejax.saes import gemma_scope
from probejax.saes.sae import SAE

_SHIPPED = Path(__file__).parent / "shipped"


@dataclasses.dataclass(frozen=True)
class SaeFile:
    """An SAE on the disk and what is known about it.

    Attributes:
      sae_id: its name in results.
      path: the `params.npz`.
      model: the model it was trained on, None where that is not recorded.
      layer: the block whose output it reads, None likewise.
    """

    sae_id: str
    path: Path
    model: str | None = None
    layer: int | None = None

    def fingerprint(self) -> str:
        """Returns a hash of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def description(self) -> dict:
        """Returns what its training recorded: measured quality and options; may be empty.

        Raises:
          ValueError: the record is damaged.
        """
        record = self.path.with_name("training.json")
        if not record.exists():
            return {}
        try:
            return dict(json.loads(record.read_text()).items())
        except (ValueError, AttributeError) as error:  # not JSON, or no object
            raise ValueError(f"{record} is damaged ({error}); delete it or restore it.") from error


def shipped(model: str) -> tuple[SaeFile, ...]:
    """Returns the SAEs that come with the package for a model."""
    return tuple(sae for sae in _all_shipped() if sae.model == model)


def _all_shipped() -> list[SaeFile]:
    files = sorted(_SHIPPED.glob("**/params.npz"))
    return [_describe(str(path.parent.relative_to(_SHIPPED)), path) for path in files]


def _describe(sae_id: str, path: Path) -> SaeFile:
    """Adds what the training record beside the file says."""
    record = SaeFile(sae_id, path).description()
    return SaeFile(sae_id, path, record.get("model"), record.get("layer"))


def find(spec: str) -> SaeFile:
    """Locates an SAE.

    Args:
      spec: the id of a shipped SAE, a `params.npz` file, or a folder that holds one.

    Raises:
      FileNotFoundError: none of these; the message lists the shipped ones.
      ValueError: the training record beside the file is damaged.
    """
    by_id = {sae.sae_id: sae for sae in _all_shipped()}
    if spec in by_id:
        return by_id[spec]
    path = Path(spec).expanduser()
    path = path / "params.npz" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"--sae={spec} is neither a file, nor a folder with a params.npz, nor one of the SAEs "
            f"that come with probejax: {', '.join(by_id) or 'none'}."
        )
    return _describe("/".join(path.resolve().with_suffix("").parts[-4:-1]), path)


def load(spec: str) -> SAE:
    """Loads an SAE, see `find`; float32, ready for `encode`.

    Raises:
      FileNotFoundError: there is no such SAE.
      ValueError: the file is damaged or not an SAE.
    """
    return gemma_scope.load(find(spec).path)
