"""Teachers: opened from run folders, files and names, and an objective that learns from one."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support.pictures import write_classes

import vitrail
from vitrail.config import to_json
from vitrail.data.gate import inspect
from vitrail.data.labels import Labels
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.errors import CheckpointError, ConfigError, RunError
from vitrail.models import catalog, config_json
from vitrail.objectives.context import Context
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data
from vitrail.run.folder import RunFolder
from vitrail.run.teachers import open_teacher
from vitrail.run.workshop import Workshop, normal
from vitrail.training.objective import Frozen, Objective

CLASSES = ("cat", "dog")
SIZES = {"dim": 16, "depth": 1, "heads": 2}
DATA = Data("x", image=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


@dataclass(frozen=True)
class Distil:
    """Learns to answer as a teacher does."""

    teacher: str

    def build(self, model, context):
        return Distilling(context.open_model(self.teacher))


class Distilling(Objective):
    def __init__(self, teacher):
        super().__init__()
        self.teacher = Frozen(teacher)

    def forward(self, model, batch, step):
        wanted = self.teacher(batch.images).softmax(1)
        loss = F.cross_entropy(model(batch.images), wanted)
        return {"loss": loss, "agreement": (wanted.argmax(1) == batch.targets).float().mean()}


def network(image=16, seed=0, **more):
    torch.manual_seed(seed)
    return vitrail.create("cct_2_3x2_32", image=(image, image), classes=2, **SIZES, **more).eval()


def run_of(folder, classes=CLASSES, image=24, seed=1):
    model = network(image, seed)
    labels = Labels(classes, (image, image), 3, (0.5,), (0.25,))
    with RunFolder.create(folder) as run:
        run.save_model(model, {"model": to_json(config_json(model.config))}, labels)
    return model, labels


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    photos = write_classes(tmp_path_factory.mktemp("data") / "photos", dict.fromkeys(CLASSES, 24))
    return Workshop(divide(inspect(open_source(str(photos)), progress=False)), device="cpu")


def recipe_of(workshop, objective, seed=0):
    config = network().config
    recipe = default(
        config, workshop.data(Data("photos"), (16, 16), 3), images=32, total=6, seed=seed
    )
    return replace(recipe, objective=objective, steps=replace(recipe.steps, batch=8))


def last(folder):
    return load_file(sorted((folder / "checkpoint").glob("step-*.safetensors"))[-1])


def test_a_run_s_teacher_sees_its_own_pixels_and_tells_the_training_s_classes(tmp_path):
    model, labels = run_of(tmp_path / "run", classes=("dog", "cat"), image=16)
    teacher = open_teacher(str(tmp_path / "run"), DATA, CLASSES)
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    seen = replace(labels, mean=DATA.mean, std=DATA.std).normalised(pixels)
    with torch.no_grad():
        expected = model(labels.normalised(pixels))
        torch.testing.assert_close(teacher(seen), expected[:, [1, 0]], rtol=1e-5, atol=1e-5)
    assert teacher.classes == CLASSES and not teacher.training
    others = open_teacher(str(tmp_path / "run"), DATA, ("cat", "horse"))
    assert others.classes == ("dog", "cat")  # whoever compares classes can see that they differ


def test_a_file_and_a_published_name_are_teachers_too(tmp_path, monkeypatch):
    model = network(32)
    file = tmp_path / "cct_2_3x2_32.pth"
    torch.save(vitrail.create("cct_2_3x2_32", classes=2).state_dict(), file)
    teacher = open_teacher(str(file), DATA, CLASSES)
    assert teacher(torch.zeros(2, 3, 16, 16)).shape == (2, 2) and teacher.classes == ()
    vitrail.checkpoint.save(file.with_suffix(".safetensors"), model.state_dict(),
                            metadata={"config": config_json(model.config)})  # fmt: skip
    known = catalog()["cct_2_3x2_32"]
    seen = replace(DATA, mean=known.mean, std=known.std)
    monkeypatch.setattr(
        "vitrail.run.teachers.catalog",
        lambda: {
            "cct_2_3x2_32": replace(known, hub={"own": str(file.with_suffix(".safetensors"))})
        },
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        same = open_teacher("cct_2_3x2_32", seen, CLASSES)(images)
        assert torch.equal(same, model(images))


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("", ConfigError, "no teacher is named"),
        ("nowhere", CheckpointError, "nowhere does not exist"),
        ("deepvit_s", ConfigError, "no published weights of deepvit_s"),
    ],
)
def test_what_is_no_teacher_is_one_sentence(spec, error, words):
    with pytest.raises(error, match=words):
        open_teacher(spec, DATA, CLASSES)


def test_unfinished_runs_and_other_channels_are_refused(tmp_path):
    run_of(tmp_path / "run")
    grey = replace(DATA, channels=1, mean=(0.5,), std=(0.5,))
    with pytest.raises(ConfigError, match="takes images of 3 channels and this training has 1"):
        open_teacher(str(tmp_path / "run"), grey, CLASSES)
    (tmp_path / "run" / "labels.json").unlink()
    with pytest.raises(RunError, match="has no labels"):
        open_teacher(str(tmp_path / "run"), DATA, CLASSES)


def test_nobody_opens_teachers_outside_of_a_recipe():
    with pytest.raises(ConfigError, match="RUN cannot be opened as a teacher here"):
        Distil("RUN").build(torch.nn.Identity(), Context())


def test_a_student_stops_and_goes_on_with_the_same_bits(workshop, tmp_path):
    """The teacher changes nowhere, is in no snapshot and no optimizer, and must stay the same."""
    run_of(tmp_path / "run")
    recipe = recipe_of(workshop, Distil(str(tmp_path / "run")))
    whole = workshop.train(recipe, tmp_path / "whole", 6)
    first = workshop.train(recipe, tmp_path / "parts", 3)
    assert first.step == 3
    again = Workshop(workshop.split, device="cpu").train(recipe, tmp_path / "parts", 6)
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tensors = last(tmp_path / "parts")
    assert not [name for name in tensors if "teacher" in name]
    assert {name.partition(".")[0] for name in tensors} == {"model", "ema", "optimizer"}
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text()
    assert '"agreement"' in lines


def test_another_teacher_in_its_place_is_refused(workshop, tmp_path):
    run_of(tmp_path / "run", seed=1)
    recipe = recipe_of(workshop, Distil(str(tmp_path / "run")))
    workshop.train(recipe, tmp_path / "student", 2)
    for file in (tmp_path / "run").iterdir():
        file.unlink()
    (tmp_path / "run").rmdir()
    run_of(tmp_path / "run", seed=2)
    with pytest.raises(CheckpointError, match="is of a training with teachers"):
        Workshop(workshop.split, device="cpu").train(recipe, tmp_path / "student", 4)


def test_a_student_learns_from_its_teacher(workshop, tmp_path):
    """Of labels that it never sees: its loss falls towards the teacher's entropy."""
    run_of(tmp_path / "run")
    recipe = recipe_of(workshop, Distil(str(tmp_path / "run")))
    learner = workshop.builder.learner(recipe)
    batch = recipe.task.watching(
        workshop.pixels("train", (16, 16), 3), normal(recipe)
    ).get(0, 0)  # fmt: skip
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in learner.objective.teacher.inner.parameters()}
    losses = []
    for _ in range(8):
        loss = learner(batch, None)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
