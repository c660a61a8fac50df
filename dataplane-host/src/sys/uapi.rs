//! Numbers of the kernel's BPF interface (include/uapi/linux/bpf.h), by their names there.
//!
//! Used by [`super`] and by [`crate::map`]. `aya-obj` has them as well, but the plugin must stay
//! small and does not link it; a test compares every number with it.

/// Commands of bpf(2), `enum bpf_cmd`.
pub(crate) const BPF_MAP_CREATE: u32 = 0;
pub(crate) const BPF_MAP_LOOKUP_ELEM: u32 = 1;
pub(crate) const BPF_MAP_UPDATE_ELEM: u32 = 2;
pub(crate) const BPF_MAP_DELETE_ELEM: u32 = 3;
pub(crate) const BPF_PROG_LOAD: u32 = 5;
pub(crate) const BPF_OBJ_PIN: u32 = 6;
pub(crate) const BPF_OBJ_GET: u32 = 7;
pub(crate) const BPF_PROG_GET_FD_BY_ID: u32 = 13;
pub(crate) const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
pub(crate) const BPF_PROG_QUERY: u32 = 16;
pub(crate) const BPF_MAP_LOOKUP_BATCH: u32 = 24;
pub(crate) const BPF_MAP_UPDATE_BATCH: u32 = 26;
pub(crate) const BPF_MAP_DELETE_BATCH: u32 = 27;
pub(crate) const BPF_LINK_CREATE: u32 = 28;
pub(crate) const BPF_LINK_UPDATE: u32 = 29;
pub(crate) const BPF_LINK_DETACH: u32 = 34;

/// Flag of an update: create the element or change it.
pub(crate) const BPF_ANY: u64 = 0;
/// Flag of an update: only create the element; `EEXIST` if there is one.
pub(crate) const BPF_NOEXIST: u64 = 1;

/// Flag of a query: also programs that a cgroup inherits.
pub(crate) const BPF_F_QUERY_EFFECTIVE: u32 = 1;

/// Per-CPU array, whose elements have a value for each possible CPU.
pub(crate) const BPF_MAP_TYPE_PERCPU_ARRAY: u32 = 6;

/// Program type of tc filters.
pub(crate) const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// Link of a program to a cgroup.
pub(crate) const BPF_LINK_TYPE_CGROUP: u32 = 3;
/// Link of a program to the tcx hook of a device.
pub(crate) const BPF_LINK_TYPE_TCX: u32 = 11;

#[cfg(test)]
mod tests {
    use aya_obj::generated::{self as kernel, bpf_cmd, bpf_link_type, bpf_map_type, bpf_prog_type};

    use super::*;

    #[test]
    fn commands_are_those_of_the_kernel() {
        let ours_and_theirs = [
            (BPF_MAP_CREATE, bpf_cmd::BPF_MAP_CREATE),
            (BPF_MAP_LOOKUP_ELEM, bpf_cmd::BPF_MAP_LOOKUP_ELEM),
            (BPF_MAP_UPDATE_ELEM, bpf_cmd::BPF_MAP_UPDATE_ELEM),
            (BPF_MAP_DELETE_ELEM, bpf_cmd::BPF_MAP_DELETE_ELEM),
            (BPF_PROG_LOAD, bpf_cmd::BPF_PROG_LOAD),
            (BPF_OBJ_PIN, bpf_cmd::BPF_OBJ_PIN),
            (BPF_OBJ_GET, bpf_cmd::BPF_OBJ_GET),
            (BPF_PROG_GET_FD_BY_ID, bpf_cmd::BPF_PROG_GET_FD_BY_ID),
            (BPF_PROG_QUERY, bpf_cmd::BPF_PROG_QUERY),
            (BPF_OBJ_GET_INFO_BY_FD, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD),
            (BPF_MAP_LOOKUP_BATCH, bpf_cmd::BPF_MAP_LOOKUP_BATCH),
            (BPF_MAP_UPDATE_BATCH, bpf_cmd::BPF_MAP_UPDATE_BATCH),
            (BPF_MAP_DELETE_BATCH, bpf_cmd::BPF_MAP_DELETE_BATCH),
            (BPF_LINK_CREATE, bpf_cmd::BPF_LINK_CREATE),
            (BPF_LINK_UPDATE, bpf_cmd::BPF_LINK_UPDATE),
            (BPF_LINK_DETACH, bpf_cmd::BPF_LINK_DETACH),
        ];
        for (ours, theirs) in ours_and_theirs {
            assert_eq!(ours, theirs as u32, "{theirs:?}");
        }
    }

    #[test]
    fn flags_and_types_are_those_of_the_kernel() {
        assert_eq!(BPF_ANY, u64::from(kernel::BPF_ANY));
        assert_eq!(BPF_NOEXIST, u64::from(kernel::BPF_NOEXIST));
        assert_eq!(BPF_F_QUERY_EFFECTIVE, kernel::BPF_F_QUERY_EFFECTIVE);
        assert_eq!(BPF_MAP_TYPE_PERCPU_ARRAY, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32);
        assert_eq!(BPF_PROG_TYPE_SCHED_CLS, bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32);
        assert_eq!(BPF_LINK_TYPE_CGROUP, bpf_link_type::BPF_LINK_TYPE_CGROUP as u32);
        assert_eq!(BPF_LINK_TYPE_TCX, bpf_link_type::BPF_LINK_TYPE_TCX as u32);
    }
}
