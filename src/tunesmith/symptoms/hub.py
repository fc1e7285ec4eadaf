"""Downloading models, and files that came damaged."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "certificate",
        (
            r"certificate_verify_failed",
            r"self[- ]signed certificate",
            r"unable to get local issuer certificate",
            r"\bSSLError\b(?!.{0,200}(ECONNRESET|EOF|timed out|reset by peer))",
            r"invalid peer certificate|UnknownIssuer|untrusted root|certificate .{0,30}(not trusted|unknown authority)",
            r"ssl certificate problem|certificate is not (yet )?valid|no certificate or crl|certificate verify failed",
            r"SSLCertVerificationError|\[SSL: (?!UNEXPECTED_EOF|EOF)",
            r"certificate has expired",
            r"ssl: wrong_version_number",
        ),
        cause="the connection is opened by a company's proxy or virus scanner, whose certificate Python does not know",
        fix="ask for the certificate as a file and name it: SSL_CERT_FILE and REQUESTS_CA_BUNDLE=/path/to/company.pem",
        examples=(
            "requests.exceptions.SSLError: HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded with url: "
            "/gpt2/resolve/main/config.json (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] "
            "certificate verify failed: self-signed certificate in certificate chain (_ssl.c:1006)')))",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "proxy-refused",
        (
            r"407 proxy authentication required",
            r"\bProxyError\b",
            r"cannot connect to proxy",
            r"tunnel connection failed",
            r"unable to connect to proxy",
        ),
        cause="a proxy stands between this machine and the hub, and refuses or cannot be reached",
        fix="name it with user and password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT; or download the model elsewhere and name "
        "its folder: --model FOLDER",
        examples=(
            "requests.exceptions.ProxyError: HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded with url: "
            "/api/models/gpt2 (Caused by ProxyError('Unable to connect to proxy', OSError('Tunnel connection failed: 407 Proxy "
            "Authentication Required')))",
            "OSError: Tunnel connection failed: 403 Forbidden",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "consent-missing",
        (
            r"GatedRepoError",
            r"access to model .{1,80} is restricted",
            r"you are trying to access a gated repo",
            r"401 client error",
            r"403 client error",
            r"authorization failed|(?<!failed:.)\b(401|403) (unauthorized|forbidden)|status(_| )code:? ?40[13]|token .{0,40}(is invalid|has expired|not (found|valid))|hf auth login|huggingface-cli login|access to (the )?(model|repo).{0,60}(restricted|denied)(?!.{0,400}not a valid model identifier)",
            r"asks for your consent",
            r"invalid (username or password|user token)",
            r"invalid credentials",
        ),
        cause="the model asks for consent or a login, or the stored token is no longer valid",
        fix="accept its terms on its page, then: hf auth login",
        examples=(
            "huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo for url "
            "https://huggingface.co/meta-llama/Llama-2-7b-hf/resolve/main/config.json.",
            "OSError: You are trying to access a gated repo. Make sure to have access to it",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-right-on-the-hub",
        (
            r"(rights?|permission|not authorized|forbidden).{0,60}(create a model|push|write|upload|namespace)",
            r"token .{0,40}(read-only|read only|write access|write permission)",
        ),
        cause="the token may not write there: it can only read, or the name belongs to somebody else",
        fix="make a token that may write (huggingface.co/settings/tokens), then: hf auth login; names begin with yours: YOU/MODEL",
        examples=(
            'huggingface_hub.errors.HfHubHTTPError: 403 Forbidden: You don\'t have the rights to create a model under the namespace "anna".',
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-such-model",
        (
            r"RepositoryNotFoundError",
            r"404 client error",
            r"is not a valid model identifier",
            r"there is no model ",
            r"HFValidationError",
            r"repo id must (be|use)",
            r"is not a local folder and is not",
            r"RevisionNotFoundError|EntryNotFoundError",
            r"(repository|repo|model|dataset) .{0,60}(not found|doesn't exist|does not exist)",
            r"incorrect path_or_model_id",
            r"DatasetNotFoundError",
        ),
        cause="the hub has no model of that name, and there is no such folder",
        fix="check the spelling; presets are gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2; a hub id is OWNER/NAME",
        examples=(
            "OSError: gpt2-smal is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'",
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': "
            "'/home/me/model/'. Use `repo_type` argument if needed.",
            "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://huggingface.co/gpt3/resolve/main/config.json",
        ),
    ),
    Symptom(
        "hub-is-busy",
        (
            r"429 client error",
            r"too many requests",
            r"50[0234] server error",
            r"service unavailable",
            r"bad gateway",
            r"gateway time-?out",
        ),
        cause="the hub is busy, or has had too many requests from this network",
        fix="wait some minutes and run the same command again; the download goes on where it was",
        examples=(
            "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: https://huggingface.co/api/models/gpt2",
            "requests.exceptions.HTTPError: 504 Server Error: Gateway Time-out for url: https://huggingface.co/gpt2/resolve/main/x",
        ),
    ),
    Symptom(
        "hub-unreachable",
        (
            r"couldn't connect to 'https://huggingface\.co'",
            r"name resolution",
            r"NameResolutionError",
            r"name or service not known",
            r"getaddrinfo failed",
            r"nodename nor servname",
            r"max retries exceeded",
            r"network is unreachable",
            r"(errno -?\d+\]|ConnectionError|huggingface|hf_hub|urllib3|requests|httpx|https?://\S+|pip|load).{0,300}connection "
            r"(timed out|refused|aborted|reset by peer|error)",
            r"connection (timed out|refused|aborted|reset by peer|error).{0,300}(huggingface|urllib3|requests|httpx)",
            r"hyper(_util)?::.{0,120}(TimedOut|Error)",
            r"CAS service error|reqwest\w* error|data processing error|\bxet\b.{0,80}(error|failed|timed out)",
            r"(ConnectError|ConnectTimeout|ReadTimeout)\b",
            r"read timed out",
            r"LocalEntryNotFoundError",
            r"OfflineModeIsEnabled",
            r"hub cannot be reached",
            r"cannot find the requested files in the (disk|local) cache",
            r"no route to host",
            r"connection error, and we cannot find the requested files",
            r"distant resource does not seem to be on",
            r"failed to establish a new connection|remote end closed connection|IncompleteRead|ChunkedEncodingError",
            r"(MaxRetryError|NewConnectionError|URLError|ConnectionError|RemoteDisconnected|ConnectionResetError)\b",
            r"urlopen error|could not resolve host|internet connection is (on|off)|check your (internet|network) connection",
            r"can't load (the configuration|the model|config|feature extractor|image processor).{0,30}for '",
            r"(?<!socket[ ]has[ ])failed to connect|unable to connect",
            r"bad handshake.{0,80}ECONNRESET|SSLEOFError|UNEXPECTED_EOF|EOF occurred in violation of protocol",
            r"winerror 1006[01]",
            r"outgoing traffic has been disabled",
        ),
        cause="the model hub cannot be reached from this machine",
        fix="check the network, HTTPS_PROXY and HF_HUB_OFFLINE (tunesmith doctor does); a downloaded model works without it: "
        "--model FOLDER",
        examples=(
            "OSError: We couldn't connect to 'https://huggingface.co' to load this file, couldn't find it in the cached files and it "
            "looks like gpt2 is not the path to a directory containing a file named config.json.",
            "urllib3.exceptions.NameResolutionError: <urllib3.connection.HTTPSConnection object at 0x7f>: Failed to resolve "
            "'huggingface.co' ([Errno -3] Temporary failure in name resolution)",
            "socket.gaierror: [Errno 11001] getaddrinfo failed",
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache and outgoing traffic "
            "has been disabled.",
        ),
    ),
    Symptom(
        "file-came-damaged",
        (
            r"HeaderTooLarge|HeaderTooSmall|InvalidHeader|MetadataIncompleteBuffer|InvalidHeaderDeserialization",
            r"failed finding central directory",
            r"invalid load key",
            r"consistency check failed",
            r"version https://git-lfs",
            r"unexpected (eof|end of file)",
            r"SafetensorError.{0,80}(deserializing|header|offset|InvalidOffset)|invalid header|incomplete metadata",
            r"(PytorchStreamReader|ZipFile|BadZipFile|EOFError: Ran out of input|pickle data was truncated)",
            r"unable to load weights from pytorch checkpoint|magic number|invalid magic|file signature",
            r"corrupted file|file (is|may be) corrupt",
            r"failed reading zip archive",
            r"not a zip file",
            r"crc-?32 (check|mismatch)",
            r"checksum .{0,20}(mismatch|differ)",
        ),
        cause="a file of the model is damaged: the download was broken off, a pointer of git-lfs came instead of it, or a disk was full",
        fix="delete the model's folder in the cache and download again: hf download NAME --force-download",
        examples=(
            "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
            "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
            "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
            "_pickle.UnpicklingError: invalid load key, 'v'.",
            "OSError: Consistency check failed: file should be of size 548118077 but has size 219250688",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "weights-are-pickled",
        (r"weights only load failed", r"CVE-2025-32434", r"WeightsUnpickler error", r"upgrade torch to at least v2\.6"),
        cause="old weights (.bin) can run code when they are read, and reading them was refused",
        fix="take a safetensors version of the model, or convert it where you trust it; tunesmith reads plain tensors only",
        examples=(
            "ValueError: Due to a serious vulnerability issue in `torch.load`, even with `weights_only=True`, we now require users to "
            "upgrade torch to at least v2.6 in order to use the function. CVE-2025-32434",
            "_pickle.UnpicklingError: Weights only load failed. This file can still be loaded, to do so you have two options",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "not-a-model-folder",
        (
            r"does not appear to have a file named",
            r"no file named .{0,60}(pytorch_model\.bin|model\.safetensors)",
            r"is not a model folder",
            r"unrecognized model in",
            r"there is no model folder",
            r"should have a `?model_type`? key",
            r"config\.json.{0,30}(not found|no such file)",
        ),
        cause="the folder holds no model: config.json or model.safetensors is missing",
        fix="name the folder that holds both; of a run it is the folder of --out, of a hub's cache the one below snapshots/",
        examples=(
            "OSError: ./output does not appear to have a file named pytorch_model.bin, model.safetensors, tf_model.h5, "
            "model.ckpt.index or flax_model.msgpack.",
            "ValueError: Unrecognized model in ./out. Should have a `model_type` key in its config.json",
        ),
    ),
    Symptom(
        "weights-of-another-shape",
        (
            r"size mismatch for",
            r"error\(s\) in loading state_dict",
            r"(missing|unexpected) key\(s\) in state_dict|(missing|unexpected) keys? .{0,30}(state_?dict|checkpoint)",
            r"size mismatch|mismatched sizes|shape mismatch",
            r"ignore_mismatched_sizes",
            r"shape .{0,40}(in checkpoint|in current model)",
        ),
        cause="the weights do not belong to this configuration: another size, another vocabulary, or a compiled model's names "
        "(_orig_mod)",
        fix="take config.json and model.safetensors of one model; resize_token_embeddings belongs before training, not before loading",
        examples=(
            "RuntimeError: Error(s) in loading state_dict for GPT2LMHeadModel: size mismatch for transformer.wte.weight: copying a "
            "param with shape torch.Size([50257, 768]) from checkpoint, the shape in current model is torch.Size([50259, 768]).",
        ),
        says=Says.EXACTLY,
    ),
)
