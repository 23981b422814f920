"""Makes `probejax/saes/sae_lens_list.json.xz` from SAELens' own list of pretrained SAEs.

pip download --no-deps sae-lens==6.54.12 && unzip sae_lens-6.54.12-py3-none-any.whl
python -m tests.golden.sae_lens_list sae_lens/pretrained_saes.yaml
"""

import json
import lzma
import sys
from pathlib import Path

import yaml

from probejax.saes import sae_lens_list

# What changes how a file is read; other overrides name data sets and options of the model.
_CHANGES = ("normalize_activations", "norm_scaling_factor")


def distil(releases: dict) -> dict:
    """Returns what we keep: names, repositories, formats and places."""
    found = {}
    for name, release in releases.items():
        kept = {"repository": release["repo_id"], "model": release["model"].rsplit("/", 1)[-1]}
        kept["conversion"] = release.get("conversion_func") or ""
        changes = {*release.get("config_overrides", ()), *(k for s in release["saes"] for k in s)}
        if not kept["conversion"] and (changed := sorted(changes.intersection(_CHANGES))):
            kept["conversion"] = changed[0]
        same = {sae["id"]: str(sae["path"]) for sae in release["saes"]}
        kept["saes"] = {each: "" if path == each else path for each, path in same.items()}
        found[name] = kept
    return found


def main(path: str) -> None:
    releases = yaml.load(Path(path).read_text(), Loader=yaml.CSafeLoader)
    text = json.dumps(distil(releases), separators=(",", ":"), sort_keys=True)
    data = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
    Path(sae_lens_list.__file__).with_suffix(".json.xz").write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1])
