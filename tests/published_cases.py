"""The study's files for the tests: a small folder in their layout, and the real ones."""

import functools
import pathlib

import pytest

from probejax.analysis.published import read

NARROW = "layer_20/width_16k/average_l0_408"
MIDDLE = "layer_20/width_131k/average_l0_276"
WIDE = "layer_20/width_1m/average_l0_193"

PUBLISHED = pathlib.Path(__file__).parents[1] / ".." / "shared" / "published"
golden = pytest.mark.skipif(
    not PUBLISHED.is_dir(),
    reason=f"the study's result files are not at {PUBLISHED}; see github.com/JoshEngels/SAE-Probes",
)


@functools.cache
def published_results(ranking):
    """The study's Gemma-2-9B results; read once."""
    return read(PUBLISHED, ranking=ranking)


def write(root, path, text):
    path = root / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")


def small_folder(tmp_path):
    """A folder with one or two tasks in every file."""
    base, saes = "baseline_probes_gemma-2-9b", "sae_probes_gemma-2-9b"
    write(
        tmp_path,
        f"{base}/normal_settings/layer20_results.csv",
        """dataset,method,test_f1,test_acc,test_auc,val_auc
        5_hist,logreg,0.7,0.7,0.8,0.9995998399359742
        5_hist,pca,0.7,0.7,0.9,0.9
        87_cola,logreg,0.7,0.7,0.6,0.5""",
    )
    write(
        tmp_path,
        f"{base}/scarcity/summary/all_results.csv",
        """dataset,method,num_train,test_f1,test_acc,test_auc,val_auc
        5_hist,logreg,2,0.7,0.7,0.5,1.0
        5_hist,pca,2,0.7,0.7,0.6,1.0
        87_cola,logreg,2,0.7,0.7,0.7,1.0""",
    )
    write(
        tmp_path,
        f"{base}/imbalance/all_results.csv",
        """dataset,method,ratio,num_train,test_f1,test_acc,test_auc,val_auc
        5_hist,logreg,0.55,1024,0.7,0.7,0.8,0.8""",
    )
    write(
        tmp_path,
        f"{base}/corrupt/all_results.csv",
        """dataset,method,ratio,num_train,test_f1,test_acc,test_auc,val_auc
        5_hist,logreg,0.15,1024,0.7,0.7,0.8,0.8""",
    )
    write(
        tmp_path,
        f"{base}/ood/all_results.csv",
        """dataset,test_auc_baseline,test_auc_sae
        5_hist,0.9,0.95""",
    )
    header = "test_f1,test_acc,test_auc,val_auc,k,dataset,layer,sae_id,reg_type"
    for suffix, auc in (("_old", 0.3), ("", 0.4)):
        sae = f"87_cola,20,{WIDE},l1"
        write(
            tmp_path,
            f"{saes}/scarcity_setting/all_metrics{suffix}.csv",
            f"""{header},num_train
            0.7,0.7,{auc},1.0,16,{sae},2
            0.7,0.7,0.1,1.0,64,{sae},2
            0.7,0.7,0.5,1.0,16,5_hist,20,{NARROW},l1,2""",
        )
        write(
            tmp_path,
            f"{saes}/class_imbalance_setting/all_metrics{suffix}.csv",
            f"""{header},frac
            0.7,0.7,0.7,0.9,128,5_hist,20,{NARROW},l1,0.5499999999999999""",
        )
        write(
            tmp_path,
            f"{saes}/label_noise_setting/all_metrics{suffix}.csv",
            f"""{header},binarize,corrupt_frac
            0.7,0.7,0.85,0.9995998399359742,128,5_hist,20,{NARROW},l1,False,0.0
            0.7,0.7,0.7,0.9,128,5_hist,20,{NARROW},l1,False,0.15000000000000002""",
        )
    write(
        tmp_path,
        f"{saes}/OOD_setting/all_metrics.csv",
        f"{header},binarize\n0.7,0.7,0.999,1.0,128,5_hist,20,{NARROW},l1,False",
    )
    return tmp_path
