"""The operators that a program may call, by name; everything else is refused, with the reason where it is known.

All of them compute arrays from arrays: none reads or writes files, starts processes, draws random numbers or keeps
state. The worker has one entry for each name in `curvature.models.exported`.
"""

from collections.abc import Mapping
from typing import Any

_POINTWISE = """
abs acos acosh add addcdiv addcmul alias angle asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor
ceil celu clamp clamp_max clamp_min clip clone contiguous conj copysign cos cosh deg2rad detach detach_ div elu
eq erf erfc erfinv exp exp2 expm1 fix floor floor_divide fmax fmin fmod frac ge gelu glu gt hardshrink hardsigmoid
hardswish hardtanh hypot imag isclose isfinite isinf isnan le leaky_relu lerp lgamma lift_fresh lift_fresh_copy log log10
log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt masked_fill maximum
minimum mish mul multiply nan_to_num ne neg negative ones_like polar positive pow prelu rad2deg real reciprocal relu relu6
remainder resolve_conj resolve_neg round rrelu rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus softshrink
softsign sqrt square sub subtract tan tanh tanhshrink threshold true_divide trunc where xlogy zeros_like
add_ addcdiv_ addcmul_ celu_ clamp_ clamp_max_ clamp_min_ copy_ cos_ div_ elu_ exp_ fill_ floor_ gelu_ hardsigmoid_
hardswish_ hardtanh_ leaky_relu_ log_ masked_fill_ mish_ mul_ neg_ pow_ reciprocal_ relu6_ relu_ round_ rsqrt_ selu_
sigmoid_ silu_ sin_ sqrt_ square_ sub_ tanh_ threshold_ zero_
"""

_SHAPES = """
as_strided broadcast_to cat chunk column_stack concat concatenate diag diag_embed diagonal diff dsplit dstack expand
expand_as flatten flip fliplr flipud hsplit hstack meshgrid movedim moveaxis narrow numpy_T pad permute pixel_shuffle
pixel_unshuffle channel_shuffle repeat repeat_interleave reshape reshape_as roll rot90 select slice split
split_with_sizes squeeze stack swapaxes swapdims t tensor_split tile to transpose tril triu type_as unbind unflatten
unfold unsafe_chunk unsafe_split unsqueeze view view_as view_as_complex view_as_real vsplit vstack _to_copy _unsafe_view
_reshape_alias constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
replication_pad3d squeeze_ unsqueeze_ transpose_ t_ tril_ triu_ select_scatter slice_scatter diagonal_scatter
"""

_REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort bucketize count_nonzero cummax cummin cumprod cumsum cumulative_trapezoid
frobenius_norm kthvalue logcumsumexp logsumexp max mean median min mode nansum norm nuclear_norm prod searchsorted
softmax log_softmax _softmax _log_softmax softmin sort std std_mean sum sum_to_size topk trace trapezoid trapz
unsafe_split_with_sizes var var_mean
"""

_FACTORIES = """
arange empty empty_like empty_strided eye full full_like linspace logspace new_empty new_full new_ones new_zeros ones
scalar_tensor zeros hann_window hamming_window blackman_window tril_indices triu_indices one_hot
"""

_LINEAR_ALGEBRA = """
addbmm addmm addmv addr baddbmm bilinear block_diag bmm cdist chain_matmul cholesky cholesky_solve cosine_similarity
cross det dist dot einsum ger inner inverse kron linear linalg_cholesky linalg_cholesky_ex linalg_cross linalg_det
linalg_diagonal linalg_eigh linalg_eigvalsh linalg_inv linalg_inv_ex linalg_matmul linalg_matrix_exp linalg_matrix_norm
linalg_matrix_power linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular
linalg_svdvals linalg_vander linalg_vecdot linalg_vector_norm logdet matmul matrix_exp matrix_power mm mv normalize outer
pairwise_distance pdist renorm slogdet tensordot triangular_solve vdot
"""

_LAYERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
affine_grid_generator avg_pool1d avg_pool2d avg_pool3d batch_norm col2im conv1d conv2d conv3d conv_transpose1d
conv_transpose2d conv_transpose3d convolution _convolution dropout dropout_ feature_dropout alpha_dropout
feature_alpha_dropout embedding embedding_bag fold grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell
im2col instance_norm layer_norm native_layer_norm native_group_norm lstm lstm_cell max_pool1d max_pool2d max_pool3d
max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices native_batch_norm
_native_batch_norm_legit_no_training native_dropout rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell
scaled_dot_product_attention unfold_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d
_weight_norm _weight_norm_interface
"""

_INDEXING = """
gather index index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put index_put_ index_select
masked_scatter masked_scatter_ masked_select put scatter scatter_ scatter_add scatter_add_ scatter_reduce
scatter_reduce_ take take_along_dim nonzero
"""

_LOSSES = """
binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss hinge_embedding_loss
huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss nll_loss2d
nll_loss_nd poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
"""

_FOURIER = "fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn "
_FOURIER += "fft_irfftn fft_fftshift fft_ifftshift fft_hfft fft_ihfft"

_SIZES = "sym_size sym_numel sym_stride sym_storage_offset"

ATEN_OPERATORS = frozenset(
    f"aten.{name}"
    for names in (
        *(_POINTWISE, _SHAPES, _REDUCTIONS, _FACTORIES, _LINEAR_ALGEBRA),
        *(_LAYERS, _INDEXING, _LOSSES, _FOURIER, _SIZES),
    )
    for name in names.split()
)
"""Operators of PyTorch, without their overloads."""

SIZE_OPERATORS = frozenset(
    {f"operator.{name}" for name in "add sub mul floordiv mod pow neg truediv eq ne lt le gt ge and_ or_ abs".split()}
    | {"sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite", "ceil", "floor", "trunc"}
)
"""Arithmetic on lengths."""

NO_GRAD = "no_grad"
"""The operator whose argument is a region without gradients: its results are constants."""

INLINE = "inline"
"""The operator whose argument is a region without rules of its own, such as one of automatic precision."""

OPERATORS = ATEN_OPERATORS | SIZE_OPERATORS | {NO_GRAD, INLINE}

_RANDOM = (
    "it draws random numbers, which differ from product to product: call eval() on the module, and pass noise as an "
    "input"
)

REFUSED: Mapping[str, str] = {
    **{
        f"aten.{name}": _RANDOM
        for name in "rand rand_like randn randn_like randint randint_like randperm normal normal_ bernoulli bernoulli_ "
        "multinomial uniform_ exponential_ cauchy_ geometric_ log_normal_ random_ poisson binomial".split()
    },
    "aten.embedding_renorm_": "it rewrites a parameter in place: remove max_norm from the embedding",
    "aten._embedding_bag": "export the module without decompositions, where it is embedding_bag",
    "aten._ctc_loss": "it has no second derivative",
    "aten.ctc_loss": "it has no second derivative",
    "aten.item": "a value decides what is computed: write it with where",
    "aten._local_scalar_dense": "a value decides what is computed: write it with where",
}
"""Reasons for refusing operators that users might expect to be allowed."""

_TRAINING_ARGUMENTS = {
    "aten.dropout": "train",
    "aten.dropout_": "train",
    "aten.feature_dropout": "train",
    "aten.alpha_dropout": "train",
    "aten.feature_alpha_dropout": "train",
    "aten.native_dropout": "train",
    "aten.rrelu": "training",
    "aten.batch_norm": "training",
    "aten.native_batch_norm": "training",
    "aten.instance_norm": None,  # its statistics are those of each sample
    "aten.lstm": "train",
    "aten.gru": "train",
    "aten.rnn_tanh": "train",
    "aten.rnn_relu": "train",
}

_DROPOUT_INSIDE = ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu", "aten.scaled_dot_product_attention")


def base_name(op: str) -> str:
    """Return the name of an operator of PyTorch without its overload, and other names unchanged."""
    return ".".join(op.split(".")[:2]) if op.startswith("aten.") else op


def refusal(op: str, arguments: Mapping[str, Any]) -> str | None:
    """Say why a call is refused.

    Args:
        op: Name of the operator with its overload.
        arguments: Arguments by name; tensors as anything that is no number.

    Returns:
        The reason, and what to change; None if the call is allowed.
    """
    name = base_name(op)
    if name in REFUSED:
        return REFUSED[name]
    if name not in OPERATORS or op.endswith((".out", ".generator", ".names", ".dimname")):
        return "it is not supported"
    if name in _DROPOUT_INSIDE:
        probability = arguments.get("dropout", arguments.get("dropout_p", 0.0))
        is_training = arguments.get("train", True)
        return (
            "it has dropout: call eval() on the module before it is exported" if is_training and probability else None
        )
    argument = _TRAINING_ARGUMENTS.get(name)
    if argument is not None and arguments.get(argument) is True and arguments.get("p", 1.0) != 0:
        return "it is in training mode: call eval() on the module before it is exported"
    return None
