use schemars::JsonSchema;
use serde::Serialize;

use super::schema::one_of_or_null;
use crate::model::{DropPlace, FilterRule, Knowledge, NetfilterHook, Site};

/// Where something was dropped.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlaceBody {
    /// `netfilter`, `bridge`, `openvswitch` or `tc`; `null` where the calls do not tell.
    #[schemars(extend("enum" = one_of_or_null(["netfilter", "bridge", "openvswitch", "tc"])))]
    pub site: Option<&'static str>,
    /// The hook of netfilter; `null` where it was none.
    pub hook: Option<&'static str>,
    /// The kernel functions that called each other, the innermost first.
    pub functions: Vec<String>,
    /// The rules that can have dropped it, in the order in which they are passed: one is the place. `null` where they were not looked for,
    /// or could not be.
    pub rules: Option<Vec<RuleBody>>,
    /// How many rules more can have done it.
    pub rules_left_out: usize,
    /// Why the rules are not known; `null` where they are, or were not looked for.
    pub rules_unavailable: Option<String>,
}

/// A rule of nftables, or a chain's policy.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RuleBody {
    /// The table's family, as `nft` names it.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; `null` for the chain's policy.
    pub handle: Option<u64>,
    /// The rule, as `nft` writes it.
    pub text: String,
}

impl PlaceBody {
    pub(super) fn new(place: &DropPlace) -> Self {
        let (rules, rules_left_out, rules_unavailable) = match &place.rules {
            Knowledge::Known(rules) => (Some(rules.candidates.iter().map(rule_body).collect()), rules.left_out, None),
            Knowledge::NotAsked => (None, 0, None),
            Knowledge::Unavailable(why) => (None, 0, Some(why.clone())),
        };
        Self {
            site: place.site.map(Site::name),
            hook: place.site.and_then(Site::hook).map(NetfilterHook::name),
            functions: place.functions.clone(),
            rules,
            rules_left_out,
            rules_unavailable,
        }
    }
}

fn rule_body(rule: &FilterRule) -> RuleBody {
    let FilterRule { family, table, chain, handle, text } = rule.clone();
    RuleBody { family, table, chain, handle, text }
}
