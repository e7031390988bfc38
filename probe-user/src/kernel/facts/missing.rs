//! Which kernel fields cannot be read here.

use connprobe_common::fields::Field;

use super::{
    btf::Layout,
    fields::{INDISPENSABLE, is_expected_to_be_missing, spelled},
};
use crate::model::MissingField;

/// The fields missing from a layout.
pub(in crate::kernel) fn missing_fields(layout: &Layout) -> Vec<MissingField> {
    layout
        .missing
        .iter()
        .map(|(field, why)| MissingField {
            field: spelled(*field),
            why: why.clone(),
            harmless: is_expected_to_be_missing(*field),
        })
        .collect()
}

/// The first field without which connections cannot be told apart, if the layout lacks one.
pub(in crate::kernel) fn missing_indispensable(layout: &Layout) -> Option<(Field, &str)> {
    INDISPENSABLE.into_iter().find_map(|field| Some((field, layout.missing.get(&field)?.as_str())))
}
