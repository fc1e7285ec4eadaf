"""What Python and torch say about a script of one's own, whatever it does."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "full-width-characters",
        (r"invalid (non-printable )?character .{0,12}\(?U\+(3000|FF[0-9A-F]{2}|201[89CD]|00A0|200B|FEFF)",),
        cause="a script holds full-width or typographic characters where Python wants plain ones (spaces, quotes, commas, brackets)",
        fix="type the characters of that line anew with the input method off",
        examples=(
            "SyntaxError: invalid non-printable character U+3000",
            "SyntaxError: invalid character '\uff0c' (U+FF0C)",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "script-cannot-be-read",
        (
            r"^(\S+: )?(IndentationError|TabError): ",
            r"^(\S+: )?SyntaxError: (invalid (decimal literal|syntax|token|escape)|f-string|unmatched|unterminated|cannot assign|expected |EOL while|EOF while)",
            r"^(\S+: )?SyntaxError: ('.{1,10}' was never closed|'\w+' outside|unexpected (EOF while|character after|indent)|positional argument|invalid syntax|"
            r"missing parentheses|closing parenthesis|multiple statements|non-default|keyword argument|future feature)",
        ),
        cause="Python cannot read a script: a bracket, quote, colon or indentation is wrong in the line that it names, or just above",
        fix="mend that line; code copied from a page often loses its indentation",
        examples=(
            "IndentationError: expected an indented block after 'for' statement on line 3",
            "SyntaxError: '(' was never closed",
        ),
        says=Says.SOMETHING,
    ),
    Symptom(
        "name-not-set",
        (r"NameError: (free variable |global )?(name )?'\w+'|UnboundLocalError: ",),
        cause="a script uses a name that was never set: a cell that was not run, an import that is missing, a typo",
        fix="set or import it above that line; in a notebook run the cells from the top",
        examples=("NameError: name 'tokenizer' is not defined",),
        says=Says.SOMETHING,
    ),
    Symptom(
        "run-as-a-part",
        (r"attempted relative import (with no known parent package|beyond top-level package)",),
        cause="a file of a package was run by itself",
        fix="run it from the folder above the package: python -m package.module",
        examples=("ImportError: attempted relative import with no known parent package",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "number-is-a-text",
        (
            r"'(<|>|<=|>=)' not supported between instances of '(float|int)' and 'str'",
            r"'(<|>|<=|>=)' not supported between instances of 'str' and '(float|int)'",
            r"can't multiply sequence by non-int of type 'float'|unsupported operand type\(s\) for \S+: '(float|int|str)' and '(str|float|int)'",
            r"invalid literal for int\(\) with base 10: '[\d.,_]+(e[-+]?\d+)?'|could not convert string to float: '",
        ),
        cause="a number is a text here: YAML, for one, takes 5e-5 for a word",
        fix="write 5.0e-5 in YAML, or float(x) in the script; tunesmith's --config takes both",
        examples=("TypeError: '<=' not supported between instances of 'float' and 'str'",),
    ),
    Symptom(
        "shapes-do-not-fit",
        (
            r"expected target size \[",
            r"mat1 and mat2 shapes cannot be multiplied|shape '\[[-\d, ]+\]' is invalid for input of size",
            r"size of tensor a \(\d+\) must match the size of tensor b \((?!512\)|1024\)|2048\))\d+\)(?! at non-singleton dimension \d+ .{0,20}(512|1024))",
            r"sizes of tensors must match|expected size for first two dimensions|mat2? must be a matrix|batch1 and batch2",
            r"operands could not be broadcast together|expand\(.{0,200}\): the number of sizes",
        ),
        cause="two tensors of a script do not fit each other",
        fix="print their shapes before that line; parts of models of different widths or vocabularies do not go together",
        examples=("RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x768 and 512x50257)",),
        says=Says.SOMETHING,
    ),
    Symptom(
        "tensor-used-as-number",
        (
            r"boolean value of tensor with more than one value is ambiguous|tensor with \d+ elements cannot be converted to scalar",
            r"can't call numpy\(\) on tensor that requires grad|only one element tensors can be converted",
            r"object of type (Tensor|float32|float16|bfloat16|int64|int32|ndarray) is not json serializable",
        ),
        cause="a script uses a tensor where a plain number is wanted",
        fix="x.item() for one number, x.detach().cpu().numpy() for several",
        examples=(
            "TypeError: Object of type Tensor is not JSON serializable",
            "RuntimeError: Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "list-instead-of-tensor",
        (
            r"argument '\w+' \(position \d+\) must be tensor, not (list|tuple|str|int|float)",
            r"'(list|dict)' object has no attribute '(to|shape|size|input_ids|cuda|view|dim|device|keys)'",
            r"'(tuple|dict|list)' object has no attribute '(loss|logits|backward)'",
        ),
        cause="a script has lists or tuples where it expects tensors or an output with names",
        fix="tokenizer(..., return_tensors='pt'), and model(..., return_dict=True)",
        examples=(
            "AttributeError: 'list' object has no attribute 'to'",
            "AttributeError: 'tuple' object has no attribute 'loss'",
        ),
    ),
    Symptom(
        "scheduler-before-step",
        (r"lr_scheduler\.step\(\)`? before `?optimizer\.step\(\)",),
        cause="the first learning rate was skipped: after one step that the loss scaler leaves out, that is harmless",
        fix="call optimizer.step() before lr_scheduler.step()",
        examples=("UserWarning: Detected call of `lr_scheduler.step()` before `optimizer.step()`.",),
        says=Says.HARMLESS,
    ),
    Symptom(
        "token-file-cut",
        (
            r"mmap length is greater than file size|cannot mmap an empty file|not a multiple of the (data-type|element) size",
            r"buffer size must be a multiple of element size|cannot reshape array of size 0",
        ),
        cause="a file of token ids is empty or was cut off, or has another number format",
        fix="make it anew, with the disk not full; tunesmith prepare writes files that are whole or not there",
        examples=("ValueError: mmap length is greater than file size", "ValueError: cannot mmap an empty file"),
        says=Says.EXACTLY,
    ),
    Symptom(
        "checkpoint-is-no-model",
        (
            r"'(dict|OrderedDict|collections\.OrderedDict)' object has no attribute '(eval|train|parameters|generate|half|load_state_dict|config)'",
        ),
        cause="torch.load gave a dict of weights, and a script takes it for a model",
        fix="make the model first, then model.load_state_dict(checkpoint['model']), or without ['model']; tunesmith import CHECKPOINT --out DIR",
        examples=("AttributeError: 'collections.OrderedDict' object has no attribute 'eval'",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "checkpoint-names-a-class",
        (
            r"can't get attribute '\w*(config|model|gpt|net|args|vocab)\w*' on <module",
            r"(torch\.load|serialization\.py|pickle\.load|unpickl).{0,600}no module named '(model|models|config|utils|train)'",
        ),
        cause="the checkpoint is a pickle that names classes of the script which wrote it",
        fix="load it where these are defined; tunesmith import CHECKPOINT --out DIR reads gpt-2-simple's, nanoGPT's and others without them",
        examples=("AttributeError: Can't get attribute 'GPTConfig' on <module '__main__' (built-in)>",),
        says=Says.EXACTLY,
    ),
)
