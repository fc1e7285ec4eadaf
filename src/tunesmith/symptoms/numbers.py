"""NaN, infinity, and arithmetic that a device does not have."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "loss-is-no-number",
        (
            r"(loss|ppl|perplexity|grad_norm)['\"]?\s*(is|=|:|was|became)?\s*:?\s*['\"]?(nan|inf)\b",
            r"returned nan values in its \d+\w* output",
            r"probability tensor contains either",
            r"loss is (nan|infinite)",
            r"NaN or Inf found in input tensor|(nan|inf) (detected|encountered|found|values?)|contains? (nan|inf)",
            r"non-finite (loss|gradient|norm)",
            r"the total norm .{0,60} is non-finite",
            r"became no number",
            r"loss scale already at minimum|minimum loss scale reached|reducing loss scale to [0-9.e-]+e-",
            r"overflow.{0,60}loss scale(:| to:?) (0\.0\d+|[0-9.]+e-\d+)|loss scale from 1(\.0)? to [01]\b|attempted loss scale: [01](\.0)?,",
            r"assert not torch\.isnan",
        ),
        cause="the numbers ran away: fp16 that overflows, a learning rate that is too high, or a damaged sample",
        fix="use bf16 (--precision bf16) or fp32, and a lower --learning-rate; tunesmith skips such steps, names the sample and "
        "goes back by itself",
        examples=(
            "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0",
            "RuntimeError: Function 'LogSoftmaxBackward0' returned nan values in its 0th output.",
            "step 1250: train loss nan, val loss nan",
            "{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 4.5e-05, 'epoch': 0.3}",
            "Exception: Current loss scale already at minimum - cannot decrease scale anymore. Exiting run.",
        ),
    ),
    Symptom(
        "loss-scale-is-found",
        (
            r"(gradient |scale )?overflow.{0,20}skipping step",
            r"overflow detected, setting loss scale",
            r"(reducing|reduced|decreasing) (the )?loss scale to [\d.]+$",
        ),
        cause="fp16 looks for its loss scale: a step that overflows now and then is skipped, which is normal",
        fix="nothing; if it never ends, use bf16 (--precision bf16) or a lower --learning-rate",
        examples=("Gradient overflow.  Skipping step, loss scaler 0 reducing loss scale to 32768.0",),
        says=Says.HARMLESS,
    ),
    Symptom(
        "no-fp16-on-processor",
        (
            r"not implemented for 'Half'",
            r"fp16 mixed precision .{0,160}can only be used on cuda",
            r"--precision fp16 needs a cuda device",
            r"slow_conv2d_cpu.{0,30}half",
        ),
        cause="a processor does not compute in fp16",
        fix="--precision auto (bf16 or fp32 on a processor)",
        examples=(
            "RuntimeError: \"addmm_impl_cpu_\" not implemented for 'Half'",
            "ValueError: FP16 Mixed precision training with AMP or APEX (`--fp16`) and FP16 half precision evaluation "
            "(`--fp16_full_eval`) can only be used on CUDA devices.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-bf16-on-card",
        (
            r"setup doesn't support bf16",
            r"feature '\.bf16' requires \.target sm_80",
            r"bfloat16 is only supported on gpus with compute capability",
            r"does not support bfloat16 compilation",
            r"bf16 .{0,40}not supported",
            r"tf32.{0,30}requires ampere",
        ),
        cause="the card is older than Ampere (RTX 30) and does not multiply bf16 or TF32",
        fix="--precision auto (fp16 with a loss scaler on such cards)",
        examples=(
            "ValueError: Your setup doesn't support bf16/gpu. You need torch>=1.10, using Ampere GPU with cuda>=11.0",
            "ptxas error   : Feature '.bf16' requires .target sm_80 or higher",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "fp16-weights-cannot-be-scaled",
        (r"attempting to unscale fp16 gradients",),
        cause="a script loaded the weights in fp16 and trains them with a loss scaler, which needs fp32 weights",
        fix="load the model in fp32 (dtype=torch.float32); tunesmith keeps fp32 weights in any case",
        examples=("ValueError: Attempting to unscale FP16 gradients.",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "dtypes-differ",
        (
            r"expected (scalar type|m1 and m2 to have the same dtype)",
            r"mat1 and mat2 must have the same dtype",
            r"(query|input) .{0,30}same dtype",
            r"expected \w+ but found \w+$",
        ),
        cause="a script mixes numbers of different precision in one product",
        fix="wrap the forward pass in torch.autocast, or load the model in one dtype; tunesmith casts itself",
        examples=(
            "RuntimeError: mat1 and mat2 must have the same dtype, but got Float and BFloat16",
            "RuntimeError: expected scalar type Half but found Float",
        ),
    ),
)
