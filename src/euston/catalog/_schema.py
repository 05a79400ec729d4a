"""Which fields an entry of each kind may have, and in which dimension they are written.

A field type is a key of `euston.units.DIMENSIONS` (text with a unit), one of ``text``, ``number``,
``numbers``, ``count``, ``counts``, ``bandwidths`` (one or a list), ``flag``, ``date``, or a tuple of allowed
words. ``peak.*`` stands for any key of that table.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCHEMAS", "Schema"]

FieldType = str | tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """Fields of one kind. `open` kinds (models) take any field besides, with bare numbers as they are."""

    singular: str
    fields: dict[str, FieldType]
    required: tuple[str, ...] = ()
    open: bool = False

    def type_of(self, path: str) -> FieldType | None:
        """Return the type of a dotted field, None where the schema does not know it."""
        if path in self.fields:
            return self.fields[path]
        table, dot, _ = path.rpartition(".")
        return self.fields.get(f"{table}.*") if dot else None


SCHEMAS: dict[str, Schema] = {
    "accelerators": Schema(
        "accelerator",
        {
            "vendor": "text",
            "memory": "data",
            "memory_bandwidth": "bandwidth",
            "multiprocessors": "count",
            "scale_up_bandwidth": "bandwidth",
            "scale_up_kind": "text",
            "scale_up_domain": "count",
            "power_limit": "power",
            "idle_power": "power",
            "peak.*": "flops",
            "sustained.*": "flops",
            "clock_derate": "number",
        },
        required=(
            "vendor",
            "memory",
            "memory_bandwidth",
            "multiprocessors",
            "scale_up_bandwidth",
            "scale_up_domain",
            "peak.bf16",
        ),
    ),
    "models": Schema("model", {}, open=True),
    "fabrics": Schema(
        "fabric",
        {
            "kind": "text",
            "description": "text",
            # hosts
            "hosts": "count",
            "accelerators_per_host": "count",
            "nics_per_host": "count",
            "hosts_per_domain": "count",
            "hosts_per_switch": "count",
            # sizes
            "attach": ("host", "rail"),
            "endpoints_per_tor": "count",
            "hosts_per_tor": "count",
            "hosts_per_leaf": "count",
            "hosts_per_segment": "count",
            "segments": "count",
            "tors_per_pod": "count",
            "pods": "count",
            "aggs_per_pod": "count",
            "aggs_per_plane": "count",
            "cores_per_agg": "count",
            "spines": "count",
            "spines_per_rail": "count",
            "planes": "count",
            "scale_up_planes": "count",
            "k": "count",
            "a": "count",
            "p": "count",
            "h": "count",
            "q": "count",
            "groups": "count",
            "switches": "count",
            "degree": "count",
            "dims": "counts",
            "cables": "counts",
            "wrap": "flag",
            # rates and times
            "oversubscription": "numbers",
            "nic": "bandwidth",
            "link": "bandwidths",
            "local_link": "bandwidth",
            "global_link": "bandwidth",
            "tor_uplink": "bandwidth",
            "agg_uplink": "bandwidth",
            "scale_up": "bandwidth",
            "bandwidth": "bandwidth",
            "latency": "duration",
            "link_latency": "duration",
            "nic_latency": "duration",
            "tor_latency": "duration",
            "agg_latency": "duration",
            "local_latency": "duration",
            "global_latency": "duration",
            "scale_up_latency": "duration",
            "buffer": "data",
            # routing
            "routing": "text",
            "cross_rail": ("spine", "forward"),
        },
        required=("kind", "description", "accelerators_per_host"),
    ),
    "software": Schema(
        "software profile",
        {
            "description": "text",
            "software_date": "date",
            "p2p_overlap": "flag",
            "p2p_overlap_interleaved": "flag",
            "data_overlap": "flag",
            "tensor_overlap": "flag",
            "tensor_backward_overlap": "flag",
            "attention": ("unfused", "flash"),
            "attention_kernel": ("unfused", "fa1", "fa2", "fa3", "cudnn"),
            "gradient_dtype": ("fp16", "bf16", "fp32"),
            "grad_accumulation": ("fused-fp32", "fused-bf16", "autograd-fp16", "unfused-fp32", "none"),
            "dropout": "flag",
            "cuda_graphs": ("none", "partial", "full"),
            "context": ("ring", "all_gather", "ulysses"),
            "expert_all_to_all": ("direct", "two_hops"),
            "expert_dispatch": ("bf16", "fp8"),
            "expert_dispatcher": ("alltoall", "deepep", "hybridep"),
            "expert_padding": "flag",
            "loss": ("in-place", "pytorch", "fused"),
            "activation_kernel": ("fused", "compiled"),
            "rotary_kernel": ("fused", "eager"),
            "qkv_split": ("views", "copies"),
            "expert_node_limit": "count",
            "expert_overlap": "flag",
            "recompute": ("none", "selective", "full"),
            "sequence_parallel": "flag",
        },
        required=(
            "software_date",
            "p2p_overlap",
            "data_overlap",
            "tensor_overlap",
            "tensor_backward_overlap",
            "attention",
            "attention_kernel",
            "gradient_dtype",
            "grad_accumulation",
            "dropout",
            "recompute",
            "sequence_parallel",
        ),
    ),
    "engines": Schema(
        "inference engine",
        {
            "description": "text",
            "software_date": "date",
            "cpu_fixed": "duration",
            "cpu_sequence": "duration",
            "cpu_token": "duration",
            "asynchronous": "flag",
            "graph_tokens": "count",
            "launch": "duration",
            "all_reduce": ("nccl", "custom-graph", "custom-eager"),
        },
        required=("description", "software_date"),
    ),
    "prices": Schema(
        "price",
        {"accelerator": "text", "price": "money", "date": "date", "terms": "text"},
        required=("accelerator", "price", "date", "terms"),
    ),
    "power": Schema(
        "power profile",
        {
            "description": "text",
            "pue": "number",
            "host_overhead": "power",
            "host_maximum": "power",
            "accelerators_per_host": "count",
            "energy_price": "energy_price",
        },
    ),
    "reliability": Schema(
        "set of failure rates",
        {
            "description": "text",
            "per_thousand_days.*": "number",
            "per_month.*": "number",
            "events.*": "number",
            "units.*": "count",
            "days": "number",
        },
    ),
}
"""Kinds of the catalogue; each is read from ``<kind>.toml``."""
