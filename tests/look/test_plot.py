"""`embedcache plot`: the right coordinates under the right colours, in a picture and in a page that needs nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from embedcache.errors import InputError, StoreError
from embedcache.look.colouring import MISSING, OTHER, Classes, Numbers, colouring_of
from embedcache.look.projection import project
from embedcache.storage.store import Store
from tests.exchange.files import imported, program, vectors

PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("plot")
    rng = np.random.default_rng(0)
    n, classes = 900, rng.integers(0, 40, 900)
    kinds = [f"kind {kind}" if rng.random() > 0.1 else "" for kind in classes]
    np.savez(
        folder / "x.npz",
        embeddings=vectors(40, 24)[classes] * 3 + 100 + vectors(n, 24, seed=1), ids=[f"r{i}" for i in range(n)],
        kind=kinds, two=["</script><b>a", "b"] * 450, score=np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
        split=np.array(["train", "val", "test"])[rng.integers(0, 3, n)], label=classes % 2,
    )  # fmt: skip
    return imported(folder / "s.zarr", folder / "x.npz")


def page_data(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    return found


@pytest.mark.parametrize(("points", "dim"), [(20_000, 24), (300, 24)])
def test_coordinates_are_principal_components_of_all_rows(store: Store, points: int, dim: int) -> None:
    projection = project(store, "pca", points=points)
    values = np.asarray(store.embeddings, np.float64)
    pca = PCA(2, svd_solver="full").fit(values)
    expected = pca.transform(values)[projection.rows]
    for ours, theirs in zip(projection.places.T, expected.T, strict=True):
        np.testing.assert_allclose(ours, theirs * np.sign(ours @ theirs), atol=1e-6)
    assert len(projection.rows) == min(points, 900)
    assert projection.axes[0] == f"PC 1 ({pca.explained_variance_ratio_[0]:.1%} of the variance)"
    np.testing.assert_array_equal(project(store, "pca", points=points).rows, projection.rows)


def test_a_picture_and_a_page_have_every_row(store: Store, tmp_path: Path) -> None:
    said = program("plot", store.path, "--color", "kind", "--shape", "split", "-o", tmp_path / "map.png")
    assert "of the variance" in said
    assert (tmp_path / "map.png").read_bytes().startswith(PNG)
    data = page_data(tmp_path / "map.html")
    assert data["ids"] == store.ids.tolist()
    assert data["values"][data["columns"].index("split")] == store.column("split").to_pylist()
    assert not re.search(r"(src|href)\s*=|https?://|@import", (tmp_path / "map.html").read_text())
    with pytest.raises(InputError, match="is there already"):
        program("plot", store.path, "-o", tmp_path / "map.png")
    program("plot", store.path, "--color", "score", "-o", tmp_path / "map.png", "--overwrite")
    names = [name for name, _, _ in page_data(tmp_path / "map.html")["legend"][0]["entries"]]
    assert (
        names[-1] == f"missing ({store.column('score').null_count + np.isnan(store.column('score').to_numpy()).sum()})"
    )


def test_text_of_a_column_cannot_end_the_script_of_the_page(store: Store, tmp_path: Path) -> None:
    program("plot", store.path, "--color", "two", "-o", tmp_path / "map")
    assert page_data(tmp_path / "map.html")["values"][1][0] == "</script><b>a"
    assert "<b>a" not in (tmp_path / "map.html").read_text()


def test_classes_are_the_most_frequent_and_the_rest_together(store: Store) -> None:
    rows = np.arange(900)
    many = colouring_of(store, "kind", rows)
    assert isinstance(many, Classes)
    assert len(set(many.colours)) == len(many.names) == 18
    assert (many.names[-1], many.colours[-1]) == ("23 other values", OTHER)
    kinds = np.array([kind or "" for kind in store.column("kind").to_pylist()])
    assert (many.codes < 0).sum() == (kinds == "").sum()
    for code, name in enumerate(many.names[:-1]):
        np.testing.assert_array_equal(many.codes == code, kinds == name)
    assert MISSING not in many.colours
    two = colouring_of(store, "label", rows)
    assert isinstance(two, Classes)
    assert sorted(two.names) == ["0", "1"]
    assert isinstance(colouring_of(store, "score", rows), Numbers)


def test_what_cannot_be_drawn_is_said(
    store: Store, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no column 'nothing'"):
        program("plot", store.path, "--color", "nothing", "-o", tmp_path / "x.png")
    with pytest.raises(InputError, match="umap needs 5 rows, and 4 are"):
        project(store, "umap", points=4)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        program("plot", store.path, "--method", "umap", "-o", tmp_path / "x.png")
    tokens = imported(tmp_path / "t.zarr", shared_data / "bio_embeddings_reference" / "esm1b.npz")
    with pytest.raises(StoreError, match="keeps every token"):
        program("plot", tokens.path, "-o", tmp_path / "x.png")
    np.savez(tmp_path / "e.npz", embeddings=np.ones((5, 4), np.float32), ids=list("abcde"))
    equal = imported(tmp_path / "e.zarr", tmp_path / "e.npz")
    with pytest.raises(InputError, match="are equal"):
        program("plot", equal.path, "-o", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("points", [5, 300])
def test_umap_keeps_the_rows_of_a_class_together(store: Store, tmp_path: Path, points: int) -> None:
    pytest.importorskip("umap")
    projection = project(store, "umap", points=points)
    assert projection.axes == ("UMAP 1", "UMAP 2")
    assert projection.places.shape == (points, 2)
    assert np.isfinite(projection.places).all()
    np.testing.assert_array_equal(project(store, "umap", points=points).places, projection.places)
    if points == 300:
        kinds = np.asarray(store.column("label").to_pylist())[projection.rows]
        apart = np.linalg.norm(projection.places[:, None] - projection.places, axis=2)
        np.fill_diagonal(apart, np.inf)
        assert (kinds[apart.argmin(1)] == kinds).mean() > 0.9
    said = program("plot", store.path, "--method", "umap", "--points", str(points), "-o", tmp_path / "u.png")
    assert "UMAP 1, UMAP 2" in said
    assert (tmp_path / "u.png").read_bytes().startswith(PNG)
