"""What other tools call the options and commands of flowerkit, and how it does what has no option.

The names are those of timm, torchvision's references, ultralytics, fastai, AutoGluon, Keras and Hugging
Face. Command line, plan files and calls in Python are explained by the same tables.
"""

import difflib
import functools
import inspect
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from flowerkit.text import did_you_mean

# flowerkit's option or argument: what others call it. Of several, the first counts that a command knows.
_OPTIONS = {
    "data": "data_dir data_path dataset dataset_dir datadir root_dir path dir folder input "
    "input_dir input_path images image_dir images_dir photos source src data_root train_data",
    "out": "output output_dir output_path outdir out_dir save save_dir save_path savedir project "
    "name exp exp_name experiment run_name run_dir dest destination o log_dir logdir work_dir csv "
    "checkpoint_dir target outfile output_file file filename submission",
    "train": "train_dir train_path train_folder training training_dir",
    "val": "valid val_dir valid_dir val_path valid_path validation validation_dir validation_data "
    "val_data valid_data eval_data val_folder dev dev_dir",
    "test": "test_dir test_path test_data test_folder",
    "labels": "csv labels_csv train_csv label_file labels_file annotations df",
    "csv_image": "image_column image_col fn_col filename_col x_col",
    "csv_label": "label_column label_col target_column y_col",
    "plan": "config cfg config_file yaml hparams hyperparameters preset presets recipe",
    "backbone": "model arch architecture network net base_model encoder model_name model_type "
    "timm_model backbone_name m",
    "weights": "init_weights initial_checkpoint finetune_from pretrained_weights pretrained_path",
    "epochs": "epoch num_epochs n_epochs max_epochs nb_epochs num_train_epochs train_epochs e ep",
    "per_replica_batch": "b bs batch batchsize batch_size train_batch_size micro_batch_size "
    "per_device_batch_size per_device_train_batch_size batch_per_gpu batch_size_per_gpu "
    "mini_batch_size",
    "base_lr": "lr learning_rate lr_max max_lr",
    "max_lr": "lr learning_rate learningrate learn_rate lr0 base_lr lr_max peak_lr init_lr "
    "initial_lr initial_learning_rate max_learning_rate rate eta head_lr",
    "min_rate": "min_lr start_lr lr_min",
    "max_rate": "lr max_lr end_lr lr_max",
    "min_lr": "lr_min lrf final_lr end_lr eta_min min_learning_rate",
    "start_lr": "warmup_lr warmup_lr_init warmup_init_lr lr_start",
    "rampup_epochs": "warmup warmup_epochs lr_warmup_epochs num_warmup_epochs",
    "exp_decay": "decay lr_decay gamma lr_gamma decay_rate lr_decay_rate",
    "sustain_epochs": "decay_epochs lr_step_size step_size",
    "schedule": "sched scheduler lr_scheduler lr_schedule lr_scheduler_type lr_policy",
    "optimizer": "opt optim optimiser solver",
    "weight_decay": "wd decay_weight l2 weightdecay",
    "dropout": "drop dropout_rate drop_rate ps drop_out p_drop",
    "label_smoothing": "smoothing smooth ls",
    "ema": "model_ema ema_decay model_ema_decay use_ema",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "random_erasing": "reprob random_erase erasing cutout random_erasing_prob",
    "flip": "hflip fliplr horizontal_flip do_flip random_flip random_horizontal_flip",
    "vertical_flip": "vflip flipud flip_vert random_vertical_flip",
    "max_rotation_degrees": "rotation rotate rotation_range max_rotate degrees random_rotation",
    "max_zoom": "zoom zoom_range",
    "max_lighting": "lighting color_jitter brightness contrast brightness_range",
    "max_warp": "warp shear perspective",
    "min_crop_area": "min_scale scale random_resized_crop",
    "input_size": "img_size imgsz imagesize image_size input_shape img_dim size crop_size "
    "train_crop_size train_size resolution res resize px item_tfms sz",
    "image_size": "img_size imgsz imagesize input_size size resolution res px sz",
    "class_weights": "class_weight weighted_loss balanced balance",
    "patience": "early_stopping_patience es_patience patience_epochs",
    "plateau_patience": "lr_patience patience_lr",
    "monitor": "metric eval_metric early_stopping_monitor best_metric objective",
    "freeze_epochs": "frozen_epochs head_epochs linear_probe_epochs",
    "small_epochs": "progressive_resizing progressive_epochs train_sizes",
    "freeze_lr": "frozen_lr",
    "unfreeze_from": "freeze freeze_layers trainable_layers unfreeze fine_tune_at fine_tune_from",
    "backbone_lr_factor": "layer_decay lr_mult backbone_lr_mult",
    "max_minutes": "time_limit time max_time timeout minutes time_budget budget limit max_hours",
    "precision": "amp fp16 half bf16 mixed_precision amp_dtype use_amp dtype float16 bfloat16 mp "
    "native_amp",
    "seed": "random_state random_seed manual_seed rng_seed",
    "seeds": "num_seeds n_seeds repeats num_runs trials",
    "tensorboard": "log_tensorboard tb",
    "cache": "cache_images cache_dataset ram",
    "steps": "num_it num_iter num_training num_steps iterations",
    "workers": "num_workers n_workers j jobs nproc num_proc threads n_jobs",
    "val_fraction": "val_split valid_split validation_split valid_pct val_pct val_size split "
    "val_ratio valid_size",
    "test_fraction": "test_split test_size test_pct test_ratio",
    "classes": "num_classes n_classes nc species",
    "top": "topk top_k k top_n num_top",
    "tta": "test_time_augmentation augment num_augmentations",
    "probabilities": "probs proba save_probs save_probabilities",
    "overwrite": "exist_ok force replace",
    "force": "overwrite exist_ok yes f",
    "format": "to export_format include",
    "message": "msg m comment description",
    "num_hosts": "nnodes num_nodes num_machines world_size nodes",
    "host": "rank node_rank machine_rank local_rank host_id",
    "coordinator": "master_addr dist_url rdzv_endpoint master_address",
    "external": "extra other",
    "owner": "user username",
    "debug": "traceback",
    "resume": "continue resume_from resume_from_checkpoint restart",
    "accumulate": "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps nbs",
    # Choices
    "gpu": "cuda nvidia",
    "float16": "fp16 half amp",
    "bfloat16": "bf16",
    "float32": "fp32 tf32 full",
    "litert": "tflite",
    "val_f1": "f1 macro_f1 f1_score",
    "val_accuracy": "acc val_acc top1",
    "one-cycle": "1cycle one_cycle_lr",
    "cosine": "cosine_annealing",
    "constant": "plateau reduce_on_plateau none",
    # Arguments without an option
    "photos": "data images image source input path folder files file dir",
    "runs": "run model models weights checkpoint ckpt",
    "model": "run run_folder checkpoint ckpt weights",
    "run_folder": "run model folder",
    "csv": "submission file predictions",
    "source": "file csv submission f",
    "run": "kernel notebook id",
}
_DEVICE = (
    "the device is found by itself (`flowerkit doctor` shows it): --require gpu refuses any "
    "other, CUDA_VISIBLE_DEVICES chooses among GPUs"
)
_RESUME = (
    "--resume --out RUN continues a run that was stopped, --weights RUN trains on from its network"
)
_STOPPING = (
    "early stopping is --patience 5, so many epochs without a better --monitor, where the schedule is "
    "constant or the plan ramp; a one-cycle schedule ends as planned, and its best epoch is kept"
)
_AUGMENTATION = (
    "each change has its own option, such as --flip, --min-crop-area, --max-rotation-degrees, "
    "--random-erasing, --mixup and --cutmix"
)
_PRETRAINED = "backbones are pretrained on ImageNet; --weights none trains from scratch"
_SPLIT = (
    "a fifth of the photos is for validation; `flowerkit convert --val-fraction` takes another "
    "part, and --val DIR is a folder for it"
)
# How it is done: what others have an option for.
_SENTENCES = {
    _DEVICE: "device devices gpu gpus gpu_id num_gpus cuda use_gpu use_cuda no_cuda cpu tpu mps "
    "accelerator platform tpu_cores strategy distribute num_replicas n_gpu ngpus",
    _PRETRAINED: "pretrained imagenet from_scratch scratch no_pretrained use_pretrained",
    _STOPPING: "early_stopping early_stop earlystopping es early_stopping_rounds stop_early",
    _RESUME: "checkpoint ckpt ckpt_path load load_model load_from checkpoint_path from_checkpoint "
    "model_path restore auto_resume learner",
    _AUGMENTATION: "augmentation augmentations aug augs augment aa auto_augment randaugment "
    "rand_augment ra trivial_augment auto_augment_policy hsv_h hsv_s mosaic transforms "
    "aug_transforms batch_tfms no_aug data_augmentation",
    _SPLIT: "val_fraction val_split valid_split validation_split valid_pct val_pct val_size "
    "val_ratio valid_size test_fraction test_split test_size test_pct split",
    "images are read by all cores, without an option": "workers num_workers n_workers j jobs "
    "threads nproc num_proc n_jobs pin_memory prefetch prefetch_factor persistent_workers "
    "dataloader_num_workers",
    "classes are read from the data": "num_classes n_classes nc classes class_names names "
    "num_labels",
    "training images are shuffled anew in each epoch, by --seed": "shuffle no_shuffle "
    "shuffle_buffer",
    "the loss is the cross-entropy; --label-smoothing and --class-weights change it": "loss "
    "loss_fn criterion loss_func focal_loss loss_function",
    "macro F1, accuracy and loss are logged each epoch; --monitor decides which is best": "metrics",
    "the rate is found by measuring, unless --max-lr gives it": "lr_find lr_finder auto_lr "
    "auto_lr_find find_lr",
    "fine-tuning is the default; --plan names another": "fine_tune finetune transfer "
    "transfer_learning tune",
    "`flowerkit train --epochs 0` trains the head alone, on features of the backbone": "linear_probe "
    "head_only freeze_backbone feature_extract feature_extraction",
    "progress is always shown; --debug adds the traceback of an error": "verbose v vv verbosity "
    "quiet q silent log_level progress loglevel print_freq log_interval",
    "each command compiles what it runs by itself": "compile jit torchcompile torch_compile "
    "jit_compile xla",
    "`flowerkit study` trains with several seeds; there are no folds": "fold folds k_fold kfold "
    "num_folds cross_validation cv num_bag_folds",
    "logs are files of the run folder; --tensorboard writes those of TensorBoard, too": "wandb "
    "mlflow log_wandb comet logger report_to use_wandb log",
    "report.html and pictures are always written": "plots plot report save_plots",
    "the best weights are always kept": "save_best save_best_only save_model save_period nosave "
    "checkpoint_hist save_total_limit restore_best_weights",
    "gradients are not clipped; --max-lr sets the highest rate": "clip_grad grad_clip gradient_clip "
    "gradient_clip_val clip_norm max_grad_norm",
    "the page is for this machine alone": "share public listen server_name",
}
# flowerkit's command: what others call it.
_OTHER_COMMANDS = {
    "train": "fit finetune fine-tune fine_tune run tune learn start resume continue training new",
    "predict": "eval evaluate evaluation test validate val score blend ensemble submission",
    "classify": "infer inference label recognize recognise name identify image detect",
    "check": "validate-csv verify lint",
    "report": "scores metrics plot plots show curves",
    "compare": "runs leaderboard ls results diff",
    "models": "list backbones list-models list_models zoo architectures archs summary",
    "lr-find": "find-lr lrfind lr-finder lr_finder lr auto-lr range-test",
    "study": "sweep hpo search ablation experiment",
    "convert": "prepare import preprocess tfrecord tfrecords to-tfrecords split",
    "check-data": "checkdata inspect audit dedupe duplicates leaks data",
    "draw": "generate synth synthetic make-data sample samples",
    "doctor": "info env environment status-device checks settings system cache devices device",
    "demo": "quickstart example tutorial try hello init smoke",
    "export": "onnx tflite litert savedmodel save convert-model deploy",
    "serve": "app web ui gui webui gradio dashboard server api launch",
    "bundle": "build package notebook",
    "push": "upload kaggle",
    "watch": "status logs log follow tail",
    "pull": "download output outputs fetch",
    "submit": "submissions competition",
    "publish": "share release upload-model push-to-hub save-pretrained kagglehub",
}


def _key(name: str) -> str:
    """A name as it is compared: --Batch_Size is batchsize."""
    return re.sub(r"[\W_]", "", name).casefold()


def _by_word(table: Mapping[str, str]) -> dict[str, list[str]]:
    """The keys of `table` for each word of its values."""
    found: dict[str, list[str]] = {}
    for key, words in table.items():
        for word in words.split():
            found.setdefault(_key(word), []).append(key)
    return found


_NAMES, _WAYS, _COMMANDS = _by_word(_OPTIONS), _by_word(_SENTENCES), _by_word(_OTHER_COMMANDS)


def find_command(word: str) -> str | None:
    """The command that another tool calls `word`.

    >>> find_command("fit"), find_command("train"), find_command("xyzzy")
    ('train', None, None)
    """
    return next(iter(_COMMANDS.get(_key(word), ())), None)


def find_name(name: str, known: Iterable[str], *, spelled: bool = True) -> str | None:
    """Which of the `known` names another tool calls `name`; with `spelled`, or is nearly spelled so.

    >>> [find_name(name, ["epochs", "max_lr"]) for name in ("lr", "num-epochs", "epocs", "xyzzy")]
    ['max_lr', 'epochs', 'epochs', None]
    """
    known = {_key(each): each for each in known}
    theirs = {word: here for word, names in _NAMES.items() if (here := _first(names, known))}
    meant = theirs | known
    key = _key(name)
    near = difflib.get_close_matches(key, meant, n=1, cutoff=0.75) if spelled else []
    return meant.get(key) or (meant[near[0]] if near else None)


def _first(names: list[str], known: Mapping[str, str]) -> str | None:
    return next((known[_key(name)] for name in names if _key(name) in known), None)


def explain_choice(word: str, choices: Iterable[str]) -> str:
    """ " Did you mean 'x'?" with the choice that is meant or has nearly that spelling, or nothing.

    >>> explain_choice("cuda", ["tpu", "gpu", "cpu"]), explain_choice("tpuu", ["tpu", "gpu", "cpu"])
    (" Did you mean 'gpu'?", " Did you mean 'tpu'?")
    """
    choices = list(choices)
    return did_you_mean(find_name(word, choices, spelled=False) or word, choices)


def find_way(name: str) -> str | None:
    """A sentence, without its capital and its stop: how flowerkit does what has no option of its own.

    >>> find_way("shuffle")
    'training images are shuffled anew in each epoch, by --seed'
    """
    key = _key(name)
    return next(iter(_WAYS.get(key, _WAYS.get(key.removeprefix("no"), ()))), None)


def explain_name(name: str, known: Iterable[str]) -> str:
    """For an error about an unknown argument of Python: " Use 'max_lr'.", a way to do it, or nothing.

    >>> explain_name("lr", ["epochs", "max_lr"])
    " Did you mean 'max_lr'?"
    >>> explain_name("shuffle", ["epochs", "max_lr"])
    ' Training images are shuffled anew in each epoch, by seed.'
    """
    known = list(known)
    found = find_name(name, known, spelled=False)
    if not found and (way := find_way(name)):
        return f" {in_python(way[0].upper() + way[1:])}."
    found = found or find_name(name, known)
    return f" Did you mean {found!r}?" if found else ""


def in_python(sentence: str) -> str:
    """A sentence with options as Python writes them; commands in `...` stay.

    >>> in_python("`flowerkit doctor` shows it: --require gpu or --weights none (--resume)")
    "`flowerkit doctor` shows it: require='gpu' or weights=None (resume=True)"
    """

    def write(match: re.Match) -> str:
        if match[1]:
            return match[0]
        given = match[3] or " True" * (match[2] == "resume")
        value = given.replace(" ", "=").replace("none", "None").replace("gpu", "'gpu'")
        return match[2].replace("-", "_") + value

    return re.sub(r"(`[^`]*`)|--([a-z][a-z-]*)( none| [a-z]*\d[\d.]*| gpu)?", write, sentence)


def _name_value(value: object, names: Sequence[str]) -> str:
    """A value as an argument with a name, where one fits: labels_csv='flowers.csv'."""
    suffix = Path(value).suffix if isinstance(value, str | os.PathLike) else None
    ends = {None: None, ".csv": "csv"}.get(suffix, "out")
    name = next((name for name in names if ends and name.endswith(ends)), "NAME")
    return f"{name}={reprlib.repr(value)}"


def explain_arguments(*passed_to: Callable, plan: type | None = None) -> Callable:
    """Have a function's TypeError for unknown or nameless arguments name the right ones.

    `passed_to`: functions that take what this one does not; `plan`: the class of its plan, whose fields
    are no arguments.
    """

    def decorate(function: Callable) -> Callable:
        signatures = [inspect.signature(each) for each in (function, *passed_to)]
        kinds = {k: each.kind for own in signatures[::-1] for k, each in own.parameters.items()}
        known = [name for name, kind in kinds.items() if kind is not inspect.Parameter.VAR_KEYWORD]
        named = [name for name in known if kinds[name] is inspect.Parameter.KEYWORD_ONLY]
        unnamed = [name for name in signatures[0].parameters if name not in named and name in known]
        fields = list(inspect.signature(plan).parameters) if plan else []
        title = function.__qualname__.removesuffix(".__init__")

        def explain(name: str) -> str:
            field = find_name(name, fields, spelled=False)
            if field and not find_name(name, known, spelled=False):
                given = f"load_plan('fine-tune', {field}=...)"
                return f" It is a field of the plan: {title}(data, {given})."
            return explain_name(name, [*known, *fields])

        @functools.wraps(function)
        def call(*args, **kwargs):
            unknown = [f"{name!r}.{explain(name)}" for name in kwargs if name not in known]
            if unknown:
                raise TypeError(" ".join(f"{title}() has no argument {each}" for each in unknown))
            if more := args[len(unnamed) :]:
                shown = ", ".join(_name_value(value, named) for value in more)
                places = ", ".join(unnamed)
                raise TypeError(
                    f"{title}() takes {places} without a name, all else by name: {shown}."
                )
            return function(*args, **kwargs)

        return call

    return decorate
