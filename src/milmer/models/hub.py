"""Weights travel: a model is saved to a folder, loaded from one or from the Hugging Face hub, and pushed there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, constants, snapshot_download
from torch import nn

from milmer.errors import UserError, nearest

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
TAGS = ("eeg", "emotion-recognition", "facial-expression", "multiple-instance-learning")
PAPER = "https://arxiv.org/abs/2502.00547"


class HubModel(nn.Module, ModelHubMixin, library_name="milmer", tags=list(TAGS), paper_url=PAPER):
    """A network that saves, loads and shares itself.

    What is written is safetensors and a config.json from which the network is built again, with all that a user of it
    must know (`about`). Nothing is ever unpickled. huggingface_hub's mixin gives the signatures and the upload; its
    ways of saving and loading are replaced: it deletes the old config.json before the weights are written, and would
    build a network from the arguments of ``__init__`` instead of from its description.

    Attributes
    ----------
    about : dict
        Class names, channels and their positions, rate, window, preparation, label rule: plain JSON values.
    """

    about: dict[str, Any]
    how: ClassVar[str]
    """How it comes to its answer, for the model card."""
    # Not none: then the mixin does not note every argument of __init__, of which config.json knows already.
    _hub_mixin_config = {}  # noqa: RUF012  # nobody writes to it, and the mixin declares it without ClassVar

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write ``model.safetensors``, ``config.json`` and, where there is none, a model card ``README.md``.

        Parameters
        ----------
        save_directory : str or Path
            Made if it does not exist.
        repo_id : str, optional
            Name on the hub; without it, the folder's.
        push_to_hub : bool
            Whether to push it there too.
        model_card_kwargs, **push_to_hub_kwargs
            As huggingface_hub's.

        Returns
        -------
        str or None
            Address of the commit, if it was pushed.
        """
        from milmer.models.weights import save_model  # late: that module knows this class's children

        folder = Path(save_directory).expanduser()
        save_model(self, folder, self.about)  # type: ignore[arg-type]  # every child is one of its models
        if not (folder / CARD).exists():
            self.generate_model_card(**(model_card_kwargs or {})).save(folder / CARD)
        if not push_to_hub:
            return None
        push_to_hub_kwargs.pop("config", None)
        return self.push_to_hub(repo_id or folder.name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin also takes arguments of __init__, which are fixed here
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """Load a network; it comes in evaluation mode, on the CPU.

        Parameters
        ----------
        pretrained_model_name_or_path : str or Path
            A folder with weights, the folder of ``milmer train``, or a hub name (``user/model``): see `find_model`.
        force_download, token, cache_dir, local_files_only, revision
            As huggingface_hub's; for a hub name only.

        Raises
        ------
        UserError
            If there is no such folder and no such name, a file is missing or damaged, or it is a model of another kind.
        """
        from milmer.models.weights import load_model

        folder = find_model(
            pretrained_model_name_or_path,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        model, _ = load_model(_one_fold(folder))
        if not isinstance(model, cls):
            raise UserError(
                f"{folder}: holds a model of kind {type(model).__name__}, expected {cls.__name__}; "
                "open it with milmer.models.weights.load_model"
            )
        return model

    def push_to_hub(
        self, repo_id: str, *, commit_message: str = "Add a Milmer model", private: bool | None = None, **given: Any
    ) -> str:
        """Upload weights, config.json and model card to the hub, in one commit.

        Parameters
        ----------
        repo_id : str
            Such as ``user/model``; made if it does not exist.
        commit_message : str
        private : bool, optional
            Of a repository that is made; without it, as the account or organisation has set.
        **given
            token, branch, create_pr, allow_patterns, ignore_patterns, delete_patterns, model_card_kwargs: as
            huggingface_hub's.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        UserError
            If the name is none, there is no network, or the hub refuses it.
        """
        try:
            return super().push_to_hub(repo_id, commit_message=commit_message, private=private, **given)
        except UserError:
            raise
        except Exception as error:  # which error a missing network is depends on the client's HTTP library
            raise UserError(f"{repo_id}: cannot be pushed to the hub ({_why(error)}); {_mend()}") from error

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Return the model card: what the network takes and answers, and how to load it. It holds no figures.

        How good a network is depends on a protocol, and is told by the report of its run.
        """
        info = self._hub_mixin_info.model_card_data
        data = ModelCardData(library_name=info.library_name, tags=sorted({*(info.tags or []), "milmer"}))
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_card(self)}")


def find_model(
    name: str | Path,
    *,
    force_download: bool = False,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
) -> Path:
    """Return the folder that `name` means: a folder here, else a hub name's copy in the cache, else a new download.

    Only the last asks the network, and it takes nothing but safetensors, config.json and the model card. A copy in the
    cache is used as it is; `force_download` fetches a newer one.

    Raises
    ------
    UserError
        If it is neither; it says what was looked for and what to type.
    """
    text = os.fspath(name)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise UserError(f"{text}: a file, expected the folder it lies in, a run, or a hub name such as user/model")
    near = nearest(str(folder), [str(p) for p in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
    if not _is_hub_name(text):
        raise UserError(f"{text}: no such folder{near}, expected a model's folder, a run, or a hub name user/model")
    options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
    options["allow_patterns"] = [WEIGHTS, CONFIG, CARD]
    if not force_download:
        try:
            found = Path(snapshot_download(text, local_files_only=True, **options))
        except (OSError, ValueError):  # not in the cache, or no name the hub could have
            pass
        else:
            if (found / WEIGHTS).is_file() and (found / CONFIG).is_file():
                return found
    neither = f"{text}: no such folder{near}, and as a hub name"
    if local_files_only or constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "local_files_only was asked for"
        raise UserError(
            f"{neither} it is not in the local cache ({why}); give a folder that exists, or where there is a network "
            f"type: hf download {text}"
        )
    try:
        found = Path(snapshot_download(text, force_download=force_download, **options))
    except Exception as error:  # which error a missing network is depends on the client's HTTP library
        raise UserError(
            f"{neither} it cannot be fetched ({_why(error)}); give a folder that exists, or where there is a network "
            f"type: hf download {text}"
        ) from error
    for file in (CONFIG, WEIGHTS):
        if not (found / file).is_file():
            raise UserError(f"{neither} it has no {file}, so it is no Milmer model; give another name")
    return found


def _is_hub_name(text: str) -> bool:
    owner, _, name = text.partition("/")
    return bool(owner and name) and "/" not in name and not text.startswith((".", "~")) and "\\" not in text


def _one_fold(folder: Path) -> Path:
    """`folder` itself, or the only fold in it, as ``milmer train`` leaves it."""
    folds = sorted(folder.glob(f"folds/*/{WEIGHTS}"))
    if (folder / WEIGHTS).exists() or not folds:
        return folder
    if len(folds) > 1:
        raise UserError(
            f"{folder}: a run of {len(folds)} models, expected one; give one of them, such as {folds[0].parent}"
        )
    return folds[0].parent


def _why(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return f"{type(error).__name__}: {' '.join(str(cause).split())[:160]}"


def _mend() -> str:
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: unset it where there is a network"
    return "is there a network, are you logged in (type: hf auth login), and is the name user/model?"


def _card(model: Any) -> str:
    about: Mapping[str, Any] = model.about
    data: Mapping[str, Any] = about.get("data", {})
    rule: Any = about.get("label_rule", "")
    channels = about.get("channels", ()) if "eeg" in model.modalities else ()
    facts = {
        "Answers": ", ".join(f"`{c}`" for c in about.get("classes", ())) or f"{model.n_classes} classes",
        "Label rule": rule if isinstance(rule, str) else ", ".join(f"{k} {v}" for k, v in rule.items()),
        "Takes": " and ".join({"eeg": "EEG", "face": "face video"}.get(m, m) for m in model.modalities),
        "Window": f"{model.n_times / model.sfreq:g} s, {model.n_windows} to a bag",
        "EEG": f"{model.sfreq:g} Hz, volts; trained on {len(channels)} channels: {', '.join(channels)}"
        if channels
        else "",
        "Frames": f"{model.n_frames} a window, {model.px} pixels" if "face" in model.modalities else "",
        "Trained on": f"the study `{about['study']}`, target {data.get('target', 'unknown')}"
        if "study" in about
        else "",
        "Parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M",
        "Milmer version": str(about.get("milmer", "")),
    }
    rows = "\n".join(f"| {name} | {' '.join(fact.split()).replace('|', '/')} |" for name, fact in facts.items() if fact)
    return f"""# A Milmer model

Class probabilities from {facts["Takes"]}, {model.how} ([Milmer]({PAPER})).

| | |
|---|---|
{rows}

`config.json` holds the rest: electrode positions, preparation, data and model configuration.

## Use it

```python
from {type(model).__module__} import {type(model).__name__}

model = {type(model).__name__}.from_pretrained("USER/MODEL")  # or this folder
model.about["classes"]
```

On a recording, cleaned and cut as the training data were:

```
milmer predict USER/MODEL --eeg RECORDING.edf --video FACE.mp4 --out ANSWERS
```

## Limits

How good it is depends on who was held out: see the report of the run that made it. What a person shows is not what a
person feels; do not use it to judge people. Recordings of people are personal data.
"""
