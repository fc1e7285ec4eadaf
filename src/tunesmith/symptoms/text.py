"""Encodings, tables, tokenizers."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "text-in-another-encoding",
        (
            r"codec can't decode byte",
            r"UnicodeDecodeError",
            r"invalid start byte",
            r"invalid continuation byte",
            r"incomplete multibyte sequence",
            r"illegal multibyte sequence",
            r"stream did not contain valid utf-8",
            r"bytes that are no",
            r"invalid utf-?8 (sequence|in string)",
        ),
        cause="the file is in another encoding than it was read in (Japanese files are often cp932, old English ones latin-1)",
        fix="tunesmith prepare FILE detects and names the encoding; or say it: --encoding cp932",
        examples=(
            "UnicodeDecodeError: 'utf-8' codec can't decode byte 0x82 in position 0: invalid start byte",
            "UnicodeDecodeError: 'cp932' codec can't decode byte 0x81 in position 1234: illegal multibyte sequence",
            "UnicodeDecodeError: 'charmap' codec can't decode byte 0x81 in position 27: character maps to <undefined>",
        ),
    ),
    Symptom(
        "console-cannot-show",
        (r"codec can't encode character", r"UnicodeEncodeError", r"surrogates not allowed"),
        cause="a console or file in an old encoding (cp932, cp1252) cannot hold a character that was written to it",
        fix='write UTF-8: $env:PYTHONUTF8 = "1" in PowerShell, set PYTHONUTF8=1 in cmd; tunesmith always writes UTF-8',
        examples=(
            "UnicodeEncodeError: 'cp932' codec can't encode character '\\u2014' in position 12: illegal multibyte sequence",
            "UnicodeEncodeError: 'charmap' codec can't encode characters in position 0-3: character maps to <undefined>",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "bad-json",
        (
            r"JSONDecodeError",
            r"unexpected utf-8 bom",
            r"json parse error|straddling object|ArrowInvalid.{0,80}json|json .{0,30}(is )?(invalid|malformed)|invalid json|not (a )?valid json",
            r"extra data: line \d+ column",
            r"expecting (value|property name enclosed|',' delimiter)",
            r"unterminated string starting at",
            r"column\(\) changed from .{1,40} to",
        ),
        cause="a file is not the JSON it is taken for: one object a line (.jsonl) read as .json, a line cut off, or a web page "
        "saved in its place",
        fix="name files with one object a line .jsonl; tunesmith prepare FILE names the line that is wrong",
        examples=(
            "json.decoder.JSONDecodeError: Extra data: line 2 column 1 (char 58)",
            "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
            "json.decoder.JSONDecodeError: Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)",
            "pyarrow.lib.ArrowInvalid: JSON parse error: Missing a closing quotation mark in string. in row 3",
        ),
    ),
    Symptom(
        "bad-table",
        (
            r"error tokenizing data",
            r"field larger than field limit",
            r"line contains NUL",
            r"EOF inside string",
            r"expected \d+ (fields|columns) in line \d+, saw",
            r"columns? .{0,60}(not in the dataset|doesn't exist|not found|does not exist)|no columns? named|KeyError: '(text|content|prompt|sentence)'",
            r"CSV parse error|ParserError|ArrowInvalid.{0,80}(csv|column)|csv\.Error|CastError|couldn't cast",
            r"has no column '",
            r"parquet magic bytes|not a parquet file|could not open parquet",
            r"ArrowTypeError|expected bytes, got an? '|could not convert .{1,60} with type \w+: (tried|was expecting)",
            r"need to (have|match) .{0,30}column names",
        ),
        cause="a table does not have the columns, the quoting or the types that it was read with",
        fix="tunesmith prepare FILE --text-field COLUMN shows what is read; quote texts that hold commas or line ends",
        examples=(
            "pandas.errors.ParserError: Error tokenizing data. C error: Expected 1 fields in line 3, saw 2",
            "_csv.Error: field larger than field limit (131072)",
            "_csv.Error: line contains NUL",
        ),
    ),
    Symptom(
        "dataset-not-made",
        (r"DatasetGenerationError", r"An error occurred while generating the dataset"),
        cause="the library datasets could not read a file; the reason stands above, in the first of the errors",
        fix="tunesmith prepare FILE names the file and the line",
        examples=("datasets.exceptions.DatasetGenerationError: An error occurred while generating the dataset",),
        says=Says.SOMETHING,
    ),
    Symptom(
        "no-samples",
        (
            r"num_samples should be a positive integer value",
            r"max_steps was given and .{0,80}length of .{0,20}0|there seems not to be a single sample",
            r"dataset .{0,40}(has|with|contains) (no|0|zero) (samples?|rows?|examples?|tokens?)|dataset is too small",
            r"holds 0 samples",
            r"dataset is empty|empty dataset",
            r"list index out of range.{0,40}group_texts",
            r"train_dataset .{0,30}(has )?length 0",
            r"the file .{1,80} is empty",
        ),
        cause="no sample is left of the text: it is empty, all of it was left out, or it is shorter than a script's block size",
        fix="tunesmith prepare FILE shows what is found; short texts are samples too there",
        examples=("ValueError: num_samples should be a positive integer value, but got num_samples=0",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-padding-token",
        (
            r"tokenizer does not have a padding token",
            r"attempting to pad samples but the tokenizer",
            r"using pad_token, but it is not set yet",
            r"pad(ding)?_token.{0,30}(is not set|not defined)",
            r"cannot handle batch sizes > 1 if no padding token is defined",
        ),
        cause="GPT-2 has no padding token, and a script pads",
        fix="tunesmith pads nothing; in a script of your own: tokenizer.pad_token = tokenizer.eos_token, with the end-of-text kept in "
        "the labels",
        examples=(
            "ValueError: Asking to pad but the tokenizer does not have a padding token. Please select a token to use as "
            "`pad_token` `(tokenizer.pad_token = tokenizer.eos_token e.g.)`",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "batch-of-unequal-lengths",
        (
            r"unable to create tensor, you should probably activate truncation and/or padding",
            r"expected sequence of length \d+ at dim \d+",
            r"stack expects each tensor to be equal size|expected .{0,30}equal size|too many dimensions 'str'",
            r"must have the same length|inhomogeneous shape",
            r"excessive nesting \(inputs type",
        ),
        cause="a script puts samples of different lengths into one batch without padding",
        fix="tunesmith packs samples of any length; in a script of your own: DataCollatorForLanguageModeling(tokenizer, mlm=False)",
        examples=(
            "ValueError: Unable to create tensor, you should probably activate truncation and/or padding with 'padding=True' "
            "'truncation=True' to have batched tensors with the same length.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "sentencepiece-missing",
        (
            r"requires the sentencepiece library",
            r"sentencepiece.{0,40}(not found|is required|install)",
            r"cannot instantiate this tokenizer from a slow version",
            r"No module named 'sentencepiece'",
            r"requires? the protobuf library",
        ),
        cause="a Japanese GPT-2 has a sentencepiece tokenizer, whose library is missing",
        fix="pip install sentencepiece protobuf (tunesmith brings both and reads spiece.model itself)",
        examples=(
            "ImportError: T5Tokenizer requires the SentencePiece library but it was not found in your environment.",
            "ValueError: Cannot instantiate this tokenizer from a slow version. If it's based on sentencepiece, make sure you have "
            "sentencepiece installed.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "tokenizer-missing",
        (
            r"can't load tokenizer for",
            r"couldn't instantiate the backend tokenizer",
            r"data did not match any variant of untagged enum",
            r"tokenizer class \S+ does not exist|unable to load (vocabulary|tokenizer)|can't find a vocabulary file|not a string.{0,10}$",
            r"has no tokenizer",
            r"vocab(ulary)?_?file.{0,40}(NoneType|not found|missing)",
            r"expected str, bytes or os\.PathLike object, not NoneType.{0,200}merges|merges_handle",
        ),
        cause="the tokenizer's files are missing, or written by a newer version of the tokenizers library",
        fix='copy tokenizer.json (or vocab.json and merges.txt) of the base model into the folder; pip install -U "tokenizers>=0.22"',
        examples=(
            "OSError: Can't load tokenizer for './my-model'. If you were trying to load it from 'https://huggingface.co/models', make "
            "sure you don't have a local directory with the same name.",
            "Exception: data did not match any variant of untagged enum ModelWrapper at line 250373 column 3",
        ),
    ),
    Symptom(
        "text-longer-than-context",
        (
            r"sequence length is longer than the specified maximum sequence length",
            r"this is a friendly reminder.{0,80}max_length",
            r"size of tensor a \(\d+\) must match the size of tensor b \((512|1024|2048)\)|cannot forward sequence of length \d+|longer than (the )?(block|context) (size|length)",
            r"input length of input_ids is \d+, but `?max_length`? is set to",
        ),
        cause="a text is longer than the 1,024 tokens that GPT-2 sees at once",
        fix="nothing with tunesmith: long texts are learned window by window, and generation goes on beyond the context",
        examples=(
            "Token indices sequence length is longer than the specified maximum sequence length for this model (1523 > 1024). Running "
            "this sequence through the model will result in indexing errors",
        ),
    ),
    Symptom(
        "tokenizers-after-fork",
        (r"current process just got forked, after parallelism has already been used",),
        cause="a data loader started workers after the tokenizer had used several threads; it only becomes slower",
        fix="nothing with tunesmith; in a script of your own set TOKENIZERS_PARALLELISM=false",
        examples=(
            "huggingface/tokenizers: The current process just got forked, after parallelism has already been used. Disabling "
            "parallelism to avoid deadlocks...",
        ),
        says=Says.HARMLESS,
    ),
)
