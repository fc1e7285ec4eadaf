"""Mistakes in scripts of one's own: what the Trainer, generate, datasets, accelerate and peft say about them."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "generate-argument-unknown",
        (r"the following `?model_kwargs`? are not used by the model|typos in the generate arguments",),
        cause="generate() was given an argument that it does not know: a typo, or one of another version",
        fix="correct the name (max_new_tokens, temperature, top_p, top_k, do_sample, ...); tunesmith generate --help lists its own",
        examples=(
            "ValueError: The following `model_kwargs` are not used by the model: ['max_new_token'] (note: typos in the generate "
            "arguments will also show up in this list)",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "text-instead-of-tokens",
        (r"'str' object has no attribute '(shape|size|dim|to|device|view|new_ones|long|ndim)'",),
        cause="a text was given where token ids are wanted",
        fix="encode it first: tokenizer(text, return_tensors='pt'); tunesmith generate takes text",
        examples=("AttributeError: 'str' object has no attribute 'shape'",),
    ),
    Symptom(
        "nothing-to-continue",
        (
            r"cannot reshape tensor of 0 elements into shape \[-1, 0\]|input_ids.{0,40}(is empty|has length 0|batch size 0)",
        ),
        cause="an empty text has no tokens, and a model needs one to go on from",
        fix="begin with the end-of-text token: tokenizer(tokenizer.eos_token, return_tensors='pt'); tunesmith generate does so by itself",
        examples=(
            "RuntimeError: cannot reshape tensor of 0 elements into shape [-1, 0] because the unspecified dimension size -1 can be "
            "any value and is ambiguous",
        ),
    ),
    Symptom(
        "no-chat-template",
        (r"tokenizer\.chat_template is not set|cannot use chat template|(has no|without a) chat.?template",),
        cause="GPT-2 has no form for chats: the tokenizer has no chat template",
        fix="write prompts as plain text in the form of the training text; or set tokenizer.chat_template. Pairs: tunesmith train "
        "FILE --prompt-field question --completion-field answer",
        examples=(
            "ValueError: Cannot use chat template functions because tokenizer.chat_template is not set and no template argument was passed!",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "backward-twice",
        (
            r"backward through the graph a second time|(buffers|saved intermediate values) .{0,60}(have already been|already) freed",
        ),
        cause="backward() was called twice for one forward pass, often because losses of several steps were added up",
        fix="compute the loss anew in every step, and keep loss.item() instead of loss; tunesmith train does",
        examples=(
            "RuntimeError: Trying to backward through the graph a second time (or directly access saved tensors after they have "
            "already been freed).",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "changed-before-backward",
        (
            r"modified by an inplace operation|a leaf variable that requires grad .{0,60}in-?place|a view of a leaf variable",
        ),
        cause="a script overwrote numbers that the backward pass still needs",
        fix="write x = x + y instead of x += y, and change weights under torch.no_grad() only",
        examples=(
            "RuntimeError: one of the variables needed for gradient computation has been modified by an inplace operation: "
            "[torch.FloatTensor [4, 8]], which is output 0 of AddBackward0, is at version 1; expected version 0 instead.",
            "RuntimeError: a leaf Variable that requires grad is being used in an in-place operation.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "loss-is-no-scalar",
        (r"grad can be implicitly created only for scalar outputs|grad must be implicitly created",),
        cause="backward() needs one number, and the loss is a tensor of several (as with several cards in one process)",
        fix="loss.mean().backward(); tunesmith train --devices 2 uses one process for each card",
        examples=("RuntimeError: grad can be implicitly created only for scalar outputs",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "scaler-out-of-order",
        (
            r"attempted step but _scale is none|attempted (unscale_|update) but _scale is none",
            r"unscale_\(\) (is being called after|has already been called)|step\(\) has already been called since the last update",
        ),
        cause="a script calls the loss scaler of fp16 in the wrong order",
        fix="scaler.scale(loss).backward(), scaler.unscale_(optimizer), clip, scaler.step(optimizer), scaler.update(): each once a step; "
        "tunesmith train does it itself",
        examples=(
            "AssertionError: Attempted step but _scale is None.  This may indicate your script did not use scaler.scale(loss or outputs) "
            "earlier in the iteration.",
            "RuntimeError: unscale_() has already been called on this optimizer since the last update().",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "evaluation-settings-contradict",
        (
            r"load_best_model_at_end requires|save strategy: .{0,80}|save and eval(uation)? strategy to match",
            r"didn't pass an `?eval_dataset|requires an `?eval_dataset|evaluation requires an eval",
            r"(save_steps|logging_steps|eval_steps) .{0,60}(multiple of|non-zero)",
            r"metric_for_best_model.{0,80}(not found|was not)|KeyError: '?\"?The `metric_for_best_model`",
        ),
        cause="the Trainer's settings of evaluating and saving do not fit each other, or there is nothing to evaluate on",
        fix="give eval_dataset, and the same eval_strategy and save_strategy; tunesmith train keeps text apart and the best model by itself",
        examples=(
            "ValueError: --load_best_model_at_end requires the save and eval strategy to match, but found",
            "ValueError: You have set `args.eval_strategy` to IntervalStrategy.EPOCH but you didn't pass an `eval_dataset` to `Trainer`.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "collator-masks-words",
        (r"does not have a mask token which is necessary|pass `?mlm=False`? to train on causal",),
        cause="the collator hides words to be guessed, as for BERT; GPT-2 learns the next token",
        fix="DataCollatorForLanguageModeling(tokenizer, mlm=False); tunesmith train does it itself",
        examples=(
            "ValueError: This tokenizer does not have a mask token which is necessary for masked language modeling. You should pass "
            "`mlm=False` to train on causal language modeling instead.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "text-not-tokenized",
        (
            r"no columns in the dataset match the model's forward",
            r"(must|have to|should) (specify|provide) (either|exactly one of) `?(decoder_)?input_ids`? or|either input_ids or inputs_embeds",
        ),
        cause="the model was given no token ids: the text was not tokenized, or its columns were dropped",
        fix="first dataset.map(lambda rows: tokenizer(rows['text']), batched=True); tunesmith train takes text as it is",
        examples=(
            "ValueError: No columns in the dataset match the model's forward method signature: (input_ids, past_key_values, attention_mask)",
            "ValueError: You must specify exactly one of input_ids or inputs_embeds",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "map-returns-something-else",
        (
            r"provided `?function`? which is applied to all elements of table returns",
            r"you can't (add|drop) .{0,60}batched=True|column .{0,60}expected length \d+ but got length \d+",
        ),
        cause="the function given to dataset.map returns no dict, or columns of unequal length",
        fix="return a dict of lists that are equally long; where the number of rows changes add remove_columns=dataset.column_names; "
        "tunesmith prepare needs no such function",
        examples=(
            "TypeError: Provided `function` which is applied to all elements of table returns a variable of type <class 'int'>. Make sure "
            "provided `function` returns a variable of type `dict`",
            "pyarrow.lib.ArrowInvalid: Column 1 named n expected length 3 but got length 1",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "stream-has-no-length",
        (
            r"object of type '(\w*IterableDataset\w*|generator)' has no len\(\)|IterableDataset\w* .{0,40}(no length|has no len)",
            r"does not implement __len__.{0,60}max_steps|max_steps .{0,40}(has to|must) be specified",
        ),
        cause="a streamed dataset has no length, so that nobody knows where an epoch ends",
        fix="give max_steps, or load the text without streaming; tunesmith train reads files of any size from disk",
        examples=("TypeError: object of type 'IterableDataset' has no len()",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "ignored-labels-decoded",
        (
            r"out of range integral type conversion attempted",
            r"(OverflowError|can't convert negative (int|value)).{0,160}(decode|'ids'|processing)",
        ),
        cause="labels were decoded in which -100 marks what is not learned; that is no token",
        fix="put another token in its place first: labels[labels == -100] = tokenizer.eos_token_id",
        examples=("OverflowError: out of range integral type conversion attempted",),
    ),
    Symptom(
        "tied-weights-not-saved",
        (r"some tensors share memory, this will lead to duplicate memory|tensors share memory|removed shared tensor",),
        cause="GPT-2's head and embedding are one tensor, and safetensors' save_file writes none twice",
        fix="model.save_pretrained(DIR), or safetensors.torch.save_model(model, FILE); tunesmith export MODEL --to safetensors --out DIR",
        examples=(
            "RuntimeError: Some tensors share memory, this will lead to duplicate memory on disk and potential differences when loading",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "heads-do-not-divide-width",
        (
            r"(embed_dim|n_embd|hidden_size|d_model|width)\S* (must be|is not|should be) (a )?(divisible|multiple) (by|of)",
            r"assert \S*n_embd % \S*n_head == 0|hidden size \(\d+\) is not a multiple of the number of attention heads",
        ),
        cause="the width of the model is no multiple of its attention heads",
        fix="take 64 channels for each head: tunesmith train FILE --from-scratch --layers 6 --width 384 --out DIR",
        examples=(
            "ValueError: `embed_dim` must be divisible by num_heads (got `embed_dim`: 100 and `num_heads`: 12).",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "adapter-settings-wrong",
        (
            r"LoraConfig\S* got an unexpected keyword argument",
            r"invalid task type: '|`?r`? should be a positive integer value|PeftType.{0,60}(not supported|KeyError)|KeyError: '?PeftType",
        ),
        cause="peft was given a setting that it does not know",
        fix="LoraConfig(r=8, task_type='CAUSAL_LM', target_modules=['c_attn', 'c_proj', 'c_fc']); or tunesmith train FILE --lora-rank 8",
        examples=(
            "ValueError: Invalid task type: 'CAUSAL'. Must be one of the following task types: SEQ_CLS, SEQ_2_SEQ_LM, CAUSAL_LM, TOKEN_CLS",
            "ValueError: `r` should be a positive integer value but the value passed is 0",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "accelerate-set-up-twice",
        (
            r"AcceleratorState has already been initialized|initialize the accelerate state by calling",
            r"unknown mixed_precision mode|accelerate cli tool: error",
        ),
        cause="accelerate was given settings that it does not know, or a second time other ones",
        fix="make one Accelerator before everything else, with mixed_precision 'no', 'fp16' or 'bf16'; in a notebook restart the kernel",
        examples=(
            "ValueError: AcceleratorState has already been initialized and cannot be changed, restart your runtime completely and pass "
            "`mixed_precision='bf16'` to `Accelerator()`.",
            "ValueError: Unknown mixed_precision mode: float16. Choose between ['no', 'fp8', 'fp16', 'bf16']",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "not-started-by-torchrun",
        (
            r"environment variable (RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|LOCAL_RANK) expected",
            r"KeyError: '(LOCAL_RANK|RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT)'",
        ),
        cause="a script for several processes was started as a single one",
        fix="torchrun --nproc-per-node 2 SCRIPT.py; tunesmith train --devices 2 starts its processes itself",
        examples=(
            "ValueError: Error initializing torch.distributed using env:// rendezvous: environment variable RANK expected, but not set",
            "KeyError: 'LOCAL_RANK'",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "tracker-wants-a-login",
        (r"no api key configured|api key must be \d+ characters|wandb.{0,60}(api.?key|not logged in)",),
        cause="a tracker (Weights & Biases) wants a login, which the Trainer starts by itself where it is installed",
        fix="wandb login, or WANDB_MODE=offline, or report_to='none' in TrainingArguments; tunesmith tells nobody unless --track names one",
        examples=("wandb.errors.errors.UsageError: No API key configured. Use `wandb login` to log in.",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "option-unknown",
        (
            r"error: unrecognized arguments: |error: no such option:? |error: the following arguments are required|error: ambiguous option",
            r"error: argument \S+: (invalid|expected)|error: unknown (option|argument|flag)|unknown config key|some specified arguments are not used",
        ),
        cause="a program was started with an option that it does not know, or without one that it needs",
        fix="look at its own list: python SCRIPT.py --help; options of transformers' examples change with the version: take both from one release",
        examples=(
            "train.py: error: unrecognized arguments: --epoch 3",
            "run_clm.py: error: the following arguments are required: --output_dir",
        ),
        says=Says.SOMETHING,
    ),
    Symptom(
        "generation-settings-contradict",
        (
            r"greedy methods .{0,40}do not support|generation flags are not valid and may be ignored",
            r"num_return_sequences.{0,60}(has to be 1|greedy)",
            r"`?temperature`? .{0,20}(has to be|must be) a strictly positive float|`?top_p`? .{0,20}has to be a float > 0",
            r"`?(do_sample|temperature|top_p)`? is set to .{0,60}this flag is only used in sample-based",
        ),
        cause="generate() was given settings that exclude each other: temperature, top_p and several texts need chance",
        fix="do_sample=True with a temperature above 0, or leave temperature and top_p out; tunesmith generate --temperature 0 is greedy",
        examples=(
            "ValueError: Greedy methods without beam search do not support `num_return_sequences` different than 1 (got 3).",
            "ValueError: `temperature` (=0) has to be a strictly positive float, otherwise your next token scores will be invalid.",
        ),
    ),
    Symptom(
        "text-ends-early",
        (
            r"using (the model-agnostic default )?`?max_length`?('s default)? \(=?\d+\)( to control)?|both `?max_new_tokens`? \(=\d+\) and `?max_length`?",
        ),
        cause="nobody said how long the text may become, or two settings did: it ends after 20 tokens, prompt included",
        fix="max_new_tokens=200 and no max_length; tunesmith generate --max-new-tokens 200",
        examples=(
            "UserWarning: Using the model-agnostic default `max_length` (=20) to control the generation length. We recommend setting "
            "`max_new_tokens` to control the maximum length of the generation.",
        ),
        says=Says.SOMETHING,
    ),
    Symptom(
        "split-missing",
        (
            r"unknown split \S+ should be one of|KeyError: '(train|validation|valid|test|eval)'|BuilderConfig '.{1,80}' not found",
            r"couldn't infer the same data file format for all splits|config name is missing|has no split",
        ),
        cause="the dataset has no part (split, configuration) of that name",
        fix="print(dataset) shows its parts; train_test_split(test_size=0.1) makes two; tunesmith train keeps text apart by itself",
        examples=("ValueError: Unknown split \"validation\". Should be one of ['train'].", "KeyError: 'validation'"),
    ),
    Symptom(
        "other-program-refuses-model",
        (
            r"gguf magic invalid|failed to create llm '",
            r"exporting the operator .{1,120} to onnx opset|UnsupportedOperatorError|ONNXRuntimeError|onnxruntime\S*(InvalidGraph|Fail|InvalidArgument)",
            r"bpe pre-tokenizer was not recognized|error loading model: |gguf_init_from_file|unsupported onnx opset",
        ),
        cause="the program that the model was exported for does not know it in this form, or is of another version",
        fix="tunesmith export MODEL --to gguf --out DIR (or onnx) writes and checks the file; update llama.cpp, Ollama or onnxruntime",
        examples=(
            "torch.onnx.errors.UnsupportedOperatorError: Exporting the operator 'aten::scaled_dot_product_attention' to ONNX opset version 11 "
            "is not supported.",
            "llama_model_load: error loading model: tensor 'output.weight' not found",
        ),
    ),
    Symptom(
        "vocabulary-does-not-fit-text",
        (
            r"vocabulary size (is )?(too high|too small|is smaller than)|vocab(ulary)?_size .{0,40}(larger|smaller) than .{0,40}(required|pieces)",
        ),
        cause="the text is too small, or has too many different characters, for a tokenizer of that size",
        fix="take the size that the message names; tunesmith tokenizer train chooses one by the text",
        examples=(
            "RuntimeError: Internal: src/trainer_interface.cc(590) Vocabulary size too high (8000). Please set it to a value <= 1234.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "mecab-missing",
        (
            r"(unidic\w*|ipadic) dictionary is not installed",
            r"need to install (fugashi|ipadic|unidic\S*|mecab\S*|pyknp|sudachi\S*)|failed initializing mecab",
            r"no module named '(MeCab|fugashi|ipadic|unidic|unidic_lite|sudachipy|pyknp)'",
        ),
        cause="a Japanese tokenizer cuts words with MeCab, which is not here or has no dictionary",
        fix="pip install fugashi unidic-lite; rinna's GPT-2 does without",
        examples=(
            "ModuleNotFoundError: No module named 'fugashi'",
            "RuntimeError: Failed initializing MeCab. Please see the README for possible solutions",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "tracker-unreachable",
        (
            r"wandb\S*\.CommError|consider increasing the init_timeout",
            r"wandb: (error )?(network error|run initialization|error while calling)|run initialization has timed out|MlflowException.{0,60}(api request|connection)",
        ),
        cause="a tracker's server cannot be reached from here",
        fix="WANDB_MODE=offline (wandb sync DIR later), or report_to='none'; tunesmith train --track goes on without its tracker",
        examples=("wandb: Network error (ConnectionError), entering retry loop.",),
        says=Says.EXACTLY,
    ),
)
