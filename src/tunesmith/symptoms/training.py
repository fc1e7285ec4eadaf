"""Training, adapters, several cards, generating; and warnings that need nothing."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "adapters-not-for-gpt2",
        (
            r"target modules .{0,200}not found in the base model|target module .{0,120}is not supported|no target modules",
            r"only (the following modules|nn\.Linear|instances of).{0,80}(are )?supported.{0,80}(lora|peft)?|Conv1D.{0,60}(not supported|fan_in_fan_out)",
            r"please specify `?target_modules`?",
            r"no modules were targeted for adaptation",
        ),
        cause="adapters were asked for at projections that GPT-2 does not have (its names are c_attn, c_proj, c_fc)",
        fix="tunesmith train --lora-rank 8 knows them; with peft: target_modules=['c_attn', 'c_proj', 'c_fc'], fan_in_fan_out=True",
        examples=(
            "ValueError: Target modules {'v_proj', 'q_proj'} not found in the base model. Please check the target modules and try again.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "nothing-to-learn",
        (
            r"does not require grad and does not have a grad_fn",
            r"none of the inputs have requires_grad=True",
            r"optimizer got an empty parameter list|no trainable parameters|gradients will be none",
            r"no inf checks were recorded for this optimizer",
        ),
        cause="a script froze everything, or checkpoints activations of a frozen model",
        fix="with peft and gradient checkpointing: model.enable_input_require_grads(); tunesmith does it itself",
        examples=(
            "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn",
            "ValueError: optimizer got an empty parameter list",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-loss",
        (
            r"model did not return a loss from the inputs",
            r"the following keys: logits",
            r"cannot unpack non-iterable CausalLMOutput",
        ),
        cause="a script gave the model no labels",
        fix="labels = input_ids, or DataCollatorForLanguageModeling(tokenizer, mlm=False); tunesmith makes them itself",
        examples=(
            "ValueError: The model did not return a loss from the inputs, only the following keys: logits,past_key_values. For reference, "
            "the inputs it received are input_ids,attention_mask.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "nothing-to-resume",
        (
            r"can't find a valid checkpoint at",
            r"no valid checkpoint found",
            r"there is no run to resume",
            r"no checkpoint found in output directory",
            r"doesn't match the size of optimizer's group",
            r"loaded state dict has a different number of parameter groups",
        ),
        cause="there is no checkpoint to go on from, or it belongs to another run",
        fix="name the folder of the run: tunesmith train --resume --out DIR",
        examples=(
            "ValueError: Can't find a valid checkpoint at ./results",
            "ValueError: loaded state dict contains a parameter group that doesn't match the size of optimizer's group",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "out-is-taken",
        (r"already exists and is not empty", r"already holds (a|an|something)", r"use --overwrite_output_dir"),
        cause="the folder for the result already holds something",
        fix="name another --out; an unfinished run goes on with --resume",
        examples=(
            "ValueError: Output directory (./out) already exists and is not empty. Use --overwrite_output_dir to overcome.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "nccl-not-in-build",
        (
            r"doesn't have nccl built in",
            r"nccl .{0,40}(is not available|not built|not compiled|not supported on windows)",
        ),
        cause="this build of torch cannot join cards: those for Windows and for processors have no NCCL",
        fix='run it in WSL or on Linux; on one card start it without torchrun; a script of your own: backend="gloo"',
        examples=("RuntimeError: Distributed package doesn't have NCCL built in",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "libuv-not-in-build",
        (r"without libuv support|use_libuv was requested",),
        cause="torchrun asks for a part (libuv) that torch for Windows was built without",
        fix="set USE_LIBUV=0 before the command (PowerShell: $env:USE_LIBUV = 0), or run it in WSL",
        examples=("RuntimeError: use_libuv was requested but PyTorch was build without libuv support",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "processes-do-not-meet",
        (
            r"ncclUnhandledCudaError|ncclSystemError|ncclInternalError|ncclRemoteError",
            r"nccl error",
            r"watchdog caught collective operation timeout",
            r"timed out initializing process group",
            r"DistNetworkError|DistStoreError",
            r"rendezvous .{0,40}(failed|timed out)",
            r"invalid rank requested|rank .{0,20}(out of range|exceeds|should be less than) .{0,20}world",
            r"collective operation timeout|TCPStore|client socket has (timed out|failed)|connect\(\) timed out|ProcessGroup(NCCL|Gloo)|c10d.{0,80}(error|failed|timed? ?out)",
            r"expected to have finished reduction in the prior iteration",
            r"default process group has not been initialized|init_process_group|DDP (expects|does not)|DistBackendError|gloo .{0,60}(error|failed|timeout)",
            r"\bNCCL\b.{0,80}(error|fail|timeout|abort|unavailable)",
        ),
        cause="the processes of a run on several cards do not reach one another, or one of them failed",
        fix="look for the first error above it; try one card (CUDA_VISIBLE_DEVICES=0), then NCCL_DEBUG=INFO; on Windows: in WSL",
        examples=(
            "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled cuda error, NCCL version 2.21.5",
            "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5, OpType=ALLREDUCE) ran for 600039 milliseconds",
        ),
        says=Says.CAUSE,
    ),
    Symptom(
        "texts-padded-on-the-wrong-side",
        (r"right-padding was detected", r"padding_side='left'"),
        cause="a script pads prompts on the right, and GPT-2 then goes on after the padding",
        fix="tokenizer.padding_side = 'left'; tunesmith generate pads nothing",
        examples=(
            "A decoder-only architecture is being used, but right-padding was detected! For correct generation results, please set "
            "`padding_side='left'` when initializing the tokenizer.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "head-was-made-anew",
        (r"some weights of .{1,80} were not initialized from the model checkpoint", r"newly initialized: \["),
        cause="weights are missing in the checkpoint: for GPT-2's tied head (lm_head.weight) that is right, for others it is not the model",
        fix="if lm_head.weight alone is named, nothing; else take the checkpoint of the whole language model",
        examples=(
            "Some weights of GPT2LMHeadModel were not initialized from the model checkpoint at gpt2 and are newly initialized: "
            "['lm_head.weight']",
        ),
        says=Says.HARMLESS,
    ),
    Symptom(
        "padding-token-chosen",
        (
            r"setting `?pad_token_id`? to `?eos_token_id`?",
            r"attention mask and the pad token id were not set",
            r"attention mask is not set and cannot be inferred",
        ),
        cause="transformers says which token it pads with; a single text has no padding",
        fix="nothing; pad_token_id=tokenizer.eos_token_id makes it silent",
        examples=(
            "Setting `pad_token_id` to `eos_token_id`:50256 for open-end generation.",
            "The attention mask and the pad token id were not set. As a consequence, you may observe unexpected behavior.",
        ),
        says=Says.HARMLESS,
    ),
    Symptom(
        "loss-type-unset",
        (r"`?loss_type=None`? was set in the config",),
        cause="transformers takes the usual loss where a configuration names none",
        fix="nothing",
        examples=(
            "`loss_type=None` was set in the config but it is unrecognised.Using the default loss: `ForCausalLMLoss`.",
        ),
        says=Says.HARMLESS,
    ),
    Symptom(
        "not-a-gpt2",
        (r"and only 'gpt2' can be trained", r"which tunesmith does not implement"),
        cause="the checkpoint is another kind of model, or asks for arithmetic that GPT-2 does not have",
        fix="take a GPT-2 checkpoint, for example gpt2, distilgpt2 or rinna/japanese-gpt2-small",
        examples=("error: ./llama is a 'llama' model, and only 'gpt2' can be trained",),
        says=Says.EXACTLY,
    ),
)
