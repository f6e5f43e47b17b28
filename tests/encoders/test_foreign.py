"""Encoders named hf:..., held against plain calls of transformers; and code that comes with them, which must not run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from embedcache import load_encoder, open_store
from embedcache.encoders.encoder import Encoder
from embedcache.encoders.foreigntokenizer import special_tokens
from embedcache.errors import InputError, ModelError
from tests.conftest import shared_folder
from tests.encoders.hub_server import COMMIT, HubServer, sha256
from tests.processes import run_program

AMINO_ACIDS, BASES = "ACDEFGHIKLMNPQRSTVWY", "ACGTN"
PROTEINS = ["MKTAYIAKQR", "M", "MKTAYIAKQRQISFVK", "GVSERTIDPK", "MKTAYIAKQK"]
READS = ["ACGTACGT", "G", "ACGTNACGTTAG", "TTTTACGT", "ACGTACGA"]
LOAD = """
import json, sys
from embedcache import load_encoder
from embedcache.errors import ModelError
try:
    encoder = load_encoder(sys.argv[1], progress=False)
except ModelError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({"vector": encoder.encode(["MKTAY"])[0].tolist(), "description": encoder.description()}))
"""


def write_tokenizer(
    folder: Path, letters: str, *, blanks: bool = False, frame: str = "[CLS] $A [SEP]", limit: int = 64
) -> int:
    """Write a fast tokenizer with one token a letter; its number of tokens."""
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if blanks else pre_tokenizers.Split("", "isolated")
    special = [(word, ids[word]) for word in frame.split() if word.startswith("[")]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=special)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **names).save_pretrained(folder)
    return len(ids)


def small(**more: int) -> dict[str, int]:
    """Sizes that BERT and its like have in common."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    return {**sizes, "max_position_embeddings": 64, **more}


def save(model: Any, folder: Path) -> Path:
    """Save a model with norms and biases that are not the identity."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data.normal_(0.0, 0.3, generator=generator)
    model.save_pretrained(folder)
    return folder


def write_protein(folder: Path) -> Path:
    """A BERT whose tokenizer wants blanks between amino acids, as ProtBert's does."""
    from transformers import BertConfig, BertModel

    return save(BertModel(BertConfig(vocab_size=write_tokenizer(folder, AMINO_ACIDS, blanks=True), **small())), folder)


def write_dna(folder: Path) -> Path:
    """A RoBERTa of single bases with one special token, at the end."""
    from transformers import RobertaConfig, RobertaModel

    size = write_tokenizer(folder, BASES, frame="$A [SEP]", limit=10**30)
    sizes = small(max_position_embeddings=40)
    return save(RobertaModel(RobertaConfig(vocab_size=size, pad_token_id=0, **sizes)), folder)


def write_t5(folder: Path) -> Path:
    """An encoder with a decoder that nobody needs, and no limit."""
    from transformers import T5Config, T5Model

    size = write_tokenizer(folder, AMINO_ACIDS, blanks=True, frame="$A [SEP]", limit=10**30)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return save(T5Model(T5Config(vocab_size=size, pad_token_id=0, decoder_start_token_id=0, **sizes)), folder)


WRITERS: dict[str, tuple[Callable[[Path], Path], str, list[str]]] = {
    "protein": (write_protein, "AutoModel", PROTEINS),
    "dna": (write_dna, "AutoModel", READS),
    "t5": (write_t5, "AutoModelForTextEncoding", PROTEINS),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each of WRITERS."""
    return {name: write(tmp_path_factory.mktemp(name)) for name, (write, _, _) in WRITERS.items()}


@pytest.fixture
def protein(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the protein encoder, to be changed."""
    return Path(shutil.copytree(folders["protein"], tmp_path / "protein"))


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def plain(folder: Path, kind: str, text: str, dtype: torch.dtype = torch.float32) -> NDArray[np.float32]:
    """What transformers gives for one text alone, (states, tokens, D)."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, kind).from_pretrained(folder).to(dtype).eval()
    with torch.inference_mode():
        out = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False), output_hidden_states=True)
    states: NDArray[np.float32] = torch.stack(out.hidden_states)[:, 0].float().numpy()
    return states


@pytest.mark.parametrize("name", WRITERS)
def test_hidden_states_and_poolings_are_those_of_transformers(folders: dict[str, Path], name: str) -> None:
    _, kind, sequences = WRITERS[name]
    encoder = load_encoder(f"hf:{folders[name]}")
    before, after = encoder.special
    for sequence in sequences:
        states = plain(
            folders[name], kind, " ".join(sequence) if kind != "AutoModel" or name == "protein" else sequence
        )
        inner = states[:, before : states.shape[1] - after]
        np.testing.assert_allclose(encoder.hidden_states([sequence])[0], states, atol=2e-5)
        expected = {
            "mean": inner[-1].mean(axis=0),
            "mean:all": states[-1].mean(axis=0),
            "max": inner[-1].max(axis=0),
            "last": states[-1][-1],
        }
        for pooling, vector in expected.items():
            np.testing.assert_allclose(encoder.encode([sequence], pool=pooling)[0], vector, atol=2e-5)
        np.testing.assert_allclose(encoder.encode_tokens([sequence], layer=1)[0], inner[1], atol=2e-5)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("batch_tokens", [8, 64, 4096])
def test_a_row_does_not_depend_on_the_others_of_its_batch(
    folders: dict[str, Path], name: str, batch_tokens: int
) -> None:
    sequences = [sequence * repeat for sequence in WRITERS[name][2] for repeat in (1, 2, 1)]
    encoder = load_encoder(f"hf:{folders[name]}")
    alone = np.concatenate([encoder.encode([sequence]) for sequence in sequences])
    encoder.batch_tokens = batch_tokens
    np.testing.assert_array_equal(encoder.encode(sequences), alone)


def test_the_same_checkpoint_gives_the_same_natively_and_is_told_to_be_faster_there(tmp_path: Path) -> None:
    golden = shared_folder("golden") / "esm2"
    native, foreign = load_encoder(str(golden)), load_encoder(f"hf:{golden}")
    assert (foreign.alphabet, foreign.special, foreign.layers) == (native.alphabet, native.special, native.layers)
    np.testing.assert_allclose(foreign.encode(PROTEINS), native.encode(PROTEINS), atol=5e-5)
    assert f"--model {golden} is the same encoder, native and faster" in remarks(foreign)


def remarks(encoder: Encoder) -> str:
    return "; ".join(getattr(encoder, "remarks", ()))


def test_an_encoder_without_native_code_is_not_said_to_have_it(folders: dict[str, Path]) -> None:
    assert "the slow path" in remarks(load_encoder(f"hf:{folders['protein']}"))
    assert "native" not in remarks(load_encoder(f"hf:{folders['protein']}"))


def test_alphabet_and_blanks_are_told_from_the_vocabulary(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    encoder = load_encoder(f"hf:{folders['protein']}")
    assert (encoder.alphabet, load_encoder(f"hf:{folders['dna']}").alphabet) == ("protein", "dna")
    published = AutoTokenizer.from_pretrained(folders["protein"])
    assert encoder.tokenize(["MKT"])[0].tolist() == published("M K T")["input_ids"] != published("MKT")["input_ids"]


def test_an_alphabet_that_is_given_wins_and_must_be_readable(folders: dict[str, Path], tmp_path: Path) -> None:
    given = load_encoder(f"hf:{folders['protein']}", alphabet="dna")
    assert given.alphabet == "dna"
    assert given.fingerprint != load_encoder(f"hf:{folders['protein']}").fingerprint
    with pytest.raises(ModelError, match="has no tokens for amino acids"):
        load_encoder(f"hf:{folders['dna']}", alphabet="protein")
    shutil.copytree(folders["dna"], tmp_path / "numbers")
    write_tokenizer(tmp_path / "numbers", "0123456789")
    with pytest.raises(ModelError, match="has no tokens for nucleotides or amino acids, neither side by side nor"):
        load_encoder(f"hf:{tmp_path / 'numbers'}")
    with pytest.raises(InputError, match="--alphabet is for encoders named hf:"):
        load_encoder("kmer:3", alphabet="dna")


@pytest.mark.parametrize(
    ("frame", "special"),
    [
        ("[CLS] $A [SEP]", (1, 1)),
        ("$A [SEP]", (0, 1)),
        ("[CLS] $A", (1, 0)),
        ("$A", (0, 0)),
        ("$A [SEP] [CLS]", (0, 2)),
    ],
)
def test_special_tokens_are_counted_on_both_sides(protein: Path, frame: str, special: tuple[int, int]) -> None:
    write_tokenizer(protein, AMINO_ACIDS, frame=frame)
    encoder = load_encoder(f"hf:{protein}")
    assert encoder.special == special
    assert len(encoder.encode_tokens(["MKTAY"])[0]) == 5
    if not special[0]:
        with pytest.raises(InputError, match="no special token before a sequence"):
            encoder.encode(["MKTAY"], pool="cls")


class OddTokenizer:
    """Gives nothing for an empty text, and a mask of its special tokens."""

    def __init__(self, mask: list[int]) -> None:
        self.mask = mask

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        ids = list(range(len(self.mask))) if text else [99]
        return {"input_ids": ids, "special_tokens_mask": self.mask}


def test_where_an_empty_sequence_does_not_tell_the_tokenizers_own_mask_does() -> None:
    assert special_tokens(OddTokenizer([1, 1, 0, 0, 1]), "ACGT") == (2, 1)
    assert special_tokens(OddTokenizer([0, 0]), "ACGT") == (0, 0)
    with pytest.raises(ModelError, match="between those of the letters"):
        special_tokens(OddTokenizer([1, 0, 1, 0]), "ACGT")


def test_the_limit_is_the_tokenizers_or_that_of_the_positions(folders: dict[str, Path]) -> None:
    limits = {name: load_encoder(f"hf:{folder}").token_limit for name, folder in folders.items()}
    # RoBERTa counts positions from the pad token's id + 1 on.
    assert limits == {"protein": 64, "dna": 39, "t5": None}


def test_over_long_sequences_go_in_windows_of_the_limit(folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders['dna']}")
    long = "ACGTT" * 12  # 60 letters; windows of 38 letters, the second one ends with the sequence
    windows = encoder.encode([long[:38], long[22:]], pool="mean:inner")
    np.testing.assert_allclose(encoder.encode([long], pool="mean:inner")[0], windows.mean(axis=0), atol=2e-6)
    truncated = encoder.encode_readout([long], encoder.readout(("mean:inner",)), "truncate")
    np.testing.assert_array_equal(truncated[0], windows[0])
    with pytest.raises(InputError, match="61 tokens"):
        encoder.hidden_states([long])


def test_poolings_at_a_place_find_their_tokens_behind_blanks(folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders['protein']}")
    states = encoder.encode_tokens(["MKTAYIAKQR"])[0]
    readout = encoder.readout(("center:2", "at:site"))
    vector = encoder.encode_readout(["MKTAYIAKQR"], readout, "window", {"site": np.array([7])})[0]
    np.testing.assert_allclose(vector[:32], states[4:6].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(vector[32:], states[7], atol=1e-6)


def test_a_slow_tokenizer_has_no_places(tmp_path: Path) -> None:
    encoder = load_encoder(f"hf:{shared_folder('golden') / 'esm2'}")
    if encoder.tokenizer.published.is_fast:  # type: ignore[attr-defined]
        pytest.skip("this version of transformers has no slow ESM tokenizer")
    with pytest.raises(InputError, match="does not say which letters a token covers.*--pool mean"):
        encoder.encode_readout(["MKTAY"], encoder.readout(("center:2",)), "window")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_is_that_of_the_whole_model(folders: dict[str, Path], precision: str) -> None:
    encoder = load_encoder(f"hf:{folders['protein']}", precision=precision)
    states = plain(folders["protein"], "AutoModel", "M K T A Y", getattr(torch, precision))
    np.testing.assert_allclose(encoder.hidden_states(["MKTAY"])[0], states, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(encoder.encode(["MKTAY"])[0], states[-1, 1:-1].mean(axis=0), rtol=0.02, atol=0.02)
    assert encoder.fingerprint != load_encoder(f"hf:{folders['protein']}").fingerprint


def test_the_fingerprint_covers_weights_tokenizer_and_config(protein: Path) -> None:
    seen = {load_encoder(f"hf:{protein}").fingerprint, load_encoder(f"hf:{protein}").fingerprint}
    assert len(seen) == 1
    edit(protein / "config.json", layer_norm_eps=1e-5)
    seen.add(load_encoder(f"hf:{protein}").fingerprint)
    write_tokenizer(protein, AMINO_ACIDS[::-1], blanks=True)
    seen.add(load_encoder(f"hf:{protein}").fingerprint)
    content = bytearray((protein / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (protein / "model.safetensors").write_bytes(content)
    seen.add(load_encoder(f"hf:{protein}").fingerprint)
    assert len(seen) == 4


def test_random_weights_need_no_weights(protein: Path) -> None:
    (protein / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_encoder(f"hf:{protein}")
    one, same = (load_encoder(f"hf:{protein}", random_weights=True, seed=3) for _ in range(2))
    other = load_encoder(f"hf:{protein}", random_weights=True, seed=4)
    assert one.meaningless
    np.testing.assert_array_equal(one.encode(PROTEINS), same.encode(PROTEINS))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_plain_bin_is_read_and_one_that_runs_code_is_not(protein: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    expected = load_encoder(f"hf:{protein}").encode(PROTEINS)
    torch.save(load_file(protein / "model.safetensors"), protein / "pytorch_model.bin")
    (protein / "model.safetensors").unlink()
    np.testing.assert_array_equal(load_encoder(f"hf:{protein}").encode(PROTEINS), expected)

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "attacked",))

    (protein / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Attack()}))
    with pytest.raises(ModelError, match="not a plain PyTorch state dict"):
        load_encoder(f"hf:{protein}")
    assert not (tmp_path / "attacked").exists()


def test_weights_that_do_not_fill_the_model_are_refused(protein: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(protein / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, protein / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing encoder\.layer\.1\.output\.dense\.weight"):
        load_encoder(f"hf:{protein}")


def test_what_transformers_does_not_know_is_one_sentence(protein: Path, tmp_path: Path) -> None:
    edit(protein / "config.json", model_type="unheard-of")
    with pytest.raises(ModelError, match=r"cannot be loaded by transformers \d.*unheard-of") as error:
        load_encoder(f"hf:{protein}")
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_encoder(f"hf:{tmp_path}")
    with pytest.raises(ModelError, match="no encoder"):
        load_encoder("hf:nowhere")


def add_code(folder: Path, marker: Path) -> None:
    """Give a model code of its own that leaves a trace when it is run."""
    trace = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    (folder / "configuration_own.py").write_text(
        f"{trace}from transformers import BertConfig\n\n\nclass OwnConfig(BertConfig):\n    model_type = 'own'\n"
    )
    (folder / "modeling_own.py").write_text(
        f"{trace}from transformers import BertModel\nfrom .configuration_own import OwnConfig\n\n\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
    )
    code = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    edit(folder / "config.json", model_type="own", auto_map=code)


def test_code_in_a_folder_is_refused_and_not_run(protein: Path, tmp_path: Path) -> None:
    add_code(protein, tmp_path / "ran")
    for options in ({}, {"random_weights": True}):
        with pytest.raises(ModelError, match=r"modeling_own\.OwnModel.*--trust-remote-code") as error:
            load_encoder(f"hf:{protein}", **options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_code_beside_an_architecture_that_transformers_knows_is_refused_too(protein: Path, tmp_path: Path) -> None:
    """As in Nucleotide Transformer v2: without its code, transformers would load it as a plain ESM, and wrongly."""
    add_code(protein, tmp_path / "ran")
    edit(protein / "config.json", model_type="bert")
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_encoder(f"hf:{protein}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}),
        ("tokenizer_config.json", {"auto_map": ["tokenization_own.OwnTokenizer", None]}),
        ("config.json", {"auto_map": {"AutoModel": "someone/else--modeling.Model"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "modeling.Model"}}}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
    ],
)
def test_code_of_tokenizers_other_repositories_and_kernels_is_refused(
    protein: Path, tmp_path: Path, file: str, change: dict[str, object]
) -> None:
    (protein / "tokenization_own.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    edit(protein / file, **change)
    with pytest.raises(ModelError, match="needs code .*--trust-remote-code"):
        load_encoder(f"hf:{protein}")
    assert not (tmp_path / "ran").exists()


def command(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program with a cache of its own."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return run_program("embedcache", *arguments, env=environment)


def test_the_command_runs_code_only_when_it_is_told_to(protein: Path, tmp_path: Path) -> None:
    (tmp_path / "p.fa").write_text("".join(f">p{i}\n{sequence}\n" for i, sequence in enumerate(PROTEINS)))
    words = ("extract", "--model", f"hf:{protein}", "--input", tmp_path / "p.fa", "--output")
    done = command(tmp_path / "home", *words, tmp_path / "plain.zarr")
    assert done.returncode == 0, done.stderr
    add_code(protein, tmp_path / "ran")
    refused = command(tmp_path / "home", *words, tmp_path / "s.zarr")
    assert refused.returncode == 2
    assert "--trust-remote-code" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "ran").exists()
    done = command(tmp_path / "home", *words, tmp_path / "s.zarr", "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists()
    checked = command(tmp_path / "home", "verify", tmp_path / "s.zarr", "--recompute", 5)
    assert checked.returncode == 2
    assert "--trust-remote-code" in checked.stderr
    checked = command(tmp_path / "home", "verify", tmp_path / "s.zarr", "--recompute", 5, "--trust-remote-code")
    assert checked.returncode == 0, checked.stderr
    stores = [open_store(tmp_path / name).embeddings for name in ("plain.zarr", "s.zarr")]
    np.testing.assert_array_equal(np.asarray(stores[0]), np.asarray(stores[1]))


def test_an_extraction_says_that_it_is_slow_and_can_be_verified(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "r.fa").write_text("".join(f">r{i}\n{read}\n" for i, read in enumerate(READS)))
    store = tmp_path / "s.zarr"
    words = ("--model", f"hf:{folders['dna']}", "--input", tmp_path / "r.fa", "--output", store)
    done = command(tmp_path / "home", "extract", *words, "--precision", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert "runs through transformers, the slow path" in done.stderr
    assert "cosine of bfloat16 to float32: 0.9" in done.stderr
    assert "Loading weights" not in done.stderr
    checked = command(tmp_path / "home", "verify", store, "--recompute", 5)
    assert checked.returncode == 0, checked.stderr
    assert "5 rows encoded again agree" in checked.stdout


@pytest.fixture
def hub(protein: Path, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with the protein encoder as org/protein, and files beside it that nobody needs."""
    published = tmp_path / "published" / "org" / "protein"
    shutil.copytree(protein, published)
    for name in ("README.md", "tf_model.h5", "training_args.bin", "own.py"):
        (published / name).write_text("not wanted")
    server = HubServer(tmp_path / "published")
    yield server
    server.close()


def load_from(hub: HubServer, home: Path, name: str) -> dict[str, Any]:
    """Load an encoder in a process of its own, because huggingface_hub reads its settings at import."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", LOAD, name], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_an_encoder_of_the_hub_comes_through_our_download(hub: HubServer, protein: Path, tmp_path: Path) -> None:
    answer = load_from(hub, tmp_path / "home", "hf:org/protein")
    np.testing.assert_array_equal(np.float32(answer["vector"]), load_encoder(f"hf:{protein}").encode(["MKTAY"])[0])
    assert answer["description"]["revision"] == COMMIT
    names = {path.name for path in (tmp_path / "home" / "hub").rglob("*") if path.is_symlink()}
    assert names == {file.name for file in protein.iterdir()} - {".gitattributes"}
    asked = [request for request in hub.requests if not request.startswith(("GET /org/protein/resolve", "GET /cdn/"))]
    assert asked == ["GET /api/models/org/protein/revision/main"]

    again = load_from(hub, tmp_path / "home", f"hf:org/protein@{COMMIT}")
    assert again["vector"] == answer["vector"]
    assert again["description"]["fingerprint"] == answer["description"]["fingerprint"]
    assert [request for request in hub.requests if "/api/" in request] == asked


def test_code_on_the_hub_is_refused_before_weights_are_downloaded(hub: HubServer, tmp_path: Path) -> None:
    published = tmp_path / "published" / "org" / "protein"
    add_code(published, tmp_path / "ran")
    answer = load_from(hub, tmp_path / "home", "hf:org/protein")
    assert "hf:org/protein needs code from its repository" in answer["error"]
    assert "--trust-remote-code" in answer["error"]
    assert not (tmp_path / "ran").exists()
    assert hub.downloads(published / "model.safetensors") == []
    assert not list((tmp_path / "home").rglob("*.py"))
    assert sha256(published / "model.safetensors")
