"""What is known to go wrong with the published checkpoints does not go wrong here.

Each test names one pitfall that was observed with the original code; token ids and hidden states have files of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from embedcache import load_encoder
from embedcache.encoders.registry import REGISTRY
from embedcache.encoders.tokenizers import NT_V1_VOCABULARY, NT_V2_VOCABULARY
from tests.encoders.golden import golden_folder, read_golden


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_every_kmer_of_nucleotide_transformer_v2_has_an_id_two_above_that_of_v1() -> None:
    first, second = NT_V1_VOCABULARY.index("ACGTAC"), NT_V2_VOCABULARY.index("ACGTAC")
    assert second == first + 2
    assert NT_V1_VOCABULARY[4:4100] == NT_V2_VOCABULARY[6:4102]


def test_a_sequence_a_few_bases_below_the_limit_has_more_tokens_than_one_at_it_and_is_cut_to_windows(
    tmp_path: Path,
) -> None:
    folder = golden_folder("ntv1", tmp_path)
    encoder = load_encoder(str(folder))
    assert encoder.token_limit is not None
    bases = 6 * (encoder.token_limit - 1)
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), bases - missing)) for missing in range(6)]
    lengths = encoder.tokenize(sequences).lengths - encoder.token_limit
    assert lengths.tolist() == [0, 4, 3, 2, 1, 0]
    assert np.isfinite(encoder.encode(sequences)).all()


@pytest.mark.parametrize("family", ["dnabert2", "dnaberts", "ntv2", "hyenadna", "fastesm2"])
def test_checkpoints_published_with_code_load_without_it_and_without_transformers(family: str, tmp_path: Path) -> None:
    folder = golden_folder(family, tmp_path)
    for module in ("bert_layers.py", "modeling_esm.py", "modeling_hyena.py", "modeling_fastesm.py"):
        (folder / module).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code = (
        "import sys; from embedcache import load_encoder; "
        f"v = load_encoder({str(folder)!r}).encode(['ACGTACGTACGT'] if {family != 'fastesm2'} else ['MKTAYIAK']); "
        "assert v.shape[0] == 1; print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert not (tmp_path / "ran").exists()


def test_cls_of_dnabert_2_is_the_first_hidden_state_and_not_the_random_pooler(tmp_path: Path) -> None:
    golden = read_golden("dnaberts", tmp_path)
    weights = load_file(golden.directory / "model.safetensors")
    before = load_encoder(str(golden.directory)).encode(["ACGTACGTAAAC"], pool="cls")
    save_file(
        weights | {"pooler.dense.weight": weights["pooler.dense.weight"] * 9}, golden.directory / "model.safetensors"
    )
    np.testing.assert_array_equal(load_encoder(str(golden.directory)).encode(["ACGTACGTAAAC"], pool="cls"), before)


@pytest.mark.parametrize("pad", [0, 3, None])
def test_the_pad_id_in_dnabert_2s_config_changes_nothing(pad: int | None, tmp_path: Path) -> None:
    folder = golden_folder("dnabert2", tmp_path)
    before = load_encoder(str(folder))
    edit_config(folder, pad_token_id=pad)
    after = load_encoder(str(folder))
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.encode(["ACGTTAGC"]), before.encode(["ACGTTAGC"]))


def test_fastesm2_rescales_embeddings_unless_its_config_says_not_to_and_the_fingerprint_tells(tmp_path: Path) -> None:
    folder = golden_folder("fastesm2", tmp_path)
    assert "token_dropout" not in json.loads((folder / "config.json").read_text())
    silent = load_encoder(str(folder))
    edit_config(folder, token_dropout=True)
    assert load_encoder(str(folder)).fingerprint == silent.fingerprint
    edit_config(folder, token_dropout=False)
    plain = load_encoder(str(folder))
    assert plain.fingerprint != silent.fingerprint
    assert np.abs(plain.encode(["MKTAYIAKQR"]) - silent.encode(["MKTAYIAKQR"])).max() > 0.01


def test_the_epsilon_of_the_norms_is_the_configs_and_1e12_where_it_is_silent(tmp_path: Path) -> None:
    folder = golden_folder("ntv2", tmp_path)
    written = load_encoder(str(folder))
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("layer_norm_eps") == 1e-12
    (folder / "config.json").write_text(json.dumps(config))
    assert load_encoder(str(folder)).fingerprint == written.fingerprint
    edit_config(folder, layer_norm_eps=1e-5)
    assert load_encoder(str(folder)).fingerprint != written.fingerprint


def test_hyenadna_gives_the_answer_of_a_sequence_alone_where_the_original_depends_on_its_padding(
    tmp_path: Path,
) -> None:
    golden = read_golden("hyenadna", tmp_path)
    rows = [row for row, sequence in enumerate(golden.sequences) if len(sequence) > 5]
    together = load_encoder(str(golden.directory)).hidden_states([golden.sequences[row] for row in rows])
    padded = golden.expected["last_hidden_state_left_padded"]
    worst = 0.0
    for row, ours in zip(rows, together, strict=True):
        length = int(golden.mask[row].sum())
        np.testing.assert_allclose(ours[-1], golden.hidden_states[-1, row, :length], atol=5e-5, rtol=0)
        worst = max(worst, float(np.abs(padded[row, -length:] - ours[-1]).max()))
    assert worst > 1, "the fixture shows the original's dependence on the batch"


def test_lower_case_and_u_are_read_as_the_bases_they_are(tmp_path: Path) -> None:
    for family in ("dnabert2", "dna_bert_6", "ntv1", "ntv2", "hyenadna"):
        encoder = load_encoder(str(golden_folder(family, tmp_path)))
        written = encoder.encode(["ACGTTGACATGCA", "acgttgacatgca", "ACGUUGACAUGCA"])
        np.testing.assert_array_equal(written[1], written[0])
        np.testing.assert_array_equal(written[2], written[0])


@pytest.mark.parametrize(("family", "unused"), [
    ("ntv1", {"lm_head", "contact_head", "position_ids"}),
    ("ntv2", {"lm_head", "contact_head", "position_embeddings", "inv_freq"}),
    ("esm2", {"lm_head", "contact_head", "position_embeddings", "inv_freq"}),
    ("fastesm2", {"lm_head"}),
    ("dnabert2", {"cls"}),
    ("dnaberts", {"pooler"}),
    ("dna_bert_6", {"cls"}),
    ("hyenadna", {"lm_head"}),
    ("geneformer", {"cls"}),
])  # fmt: skip
def test_heads_poolers_unused_tables_and_recomputed_buffers_move_no_bit(
    family: str, unused: set[str], tmp_path: Path
) -> None:
    folder = golden_folder(family, tmp_path)
    weights = load_file(folder / "model.safetensors")
    parts = {key: unused & set(key.split(".")) for key in weights}
    if family == "ntv1":  # its positions are learned: the table is in use, its numbers are not
        assert "esm.embeddings.position_embeddings.weight" in weights
    assert set().union(*parts.values()) == unused
    probe = {"esm2": "MKTAYIAK", "fastesm2": "MKTAYIAK", "geneformer": "2 57 144 3"}.get(family, "ACGTTGCAACGT")
    before = load_encoder(str(folder))
    moved = {key: tensor + 1 if parts[key] else tensor for key, tensor in weights.items()}
    save_file(moved, folder / "model.safetensors")
    after = load_encoder(str(folder))
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.encode([probe]), before.encode([probe]))


def test_a_bare_encoder_saved_by_transformers_5_is_read_although_its_norms_are_called_gamma_and_beta(
    tmp_path: Path,
) -> None:
    for family in ("esm2", "dna_bert_6"):
        folder = golden_folder(family, tmp_path)
        weights = load_file(folder / "model.safetensors")
        before = load_encoder(str(folder))
        renamed = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for key, tensor in weights.items()
        }
        save_file(renamed, folder / "model.safetensors")
        probe = ["MKTAYIAKQR" if family == "esm2" else "ACGTACGTAC"]
        np.testing.assert_array_equal(load_encoder(str(folder)).encode(probe), before.encode(probe))


def test_geneformer_takes_the_second_to_last_layer_without_specials_from_v2_on(tmp_path: Path) -> None:
    encoder = load_encoder(str(golden_folder("geneformer", tmp_path)))
    assert encoder.readout().blocks[0].layer == encoder.layers - 1
    genes, framed = encoder.encode(["57 144 1486", "2 57 144 1486 3"])
    np.testing.assert_array_equal(genes, framed)
    assert REGISTRY["geneformer-v1-10m"].layer == REGISTRY["geneformer-v2-316m"].layer == -2
