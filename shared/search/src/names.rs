//! How indexes and aliases are named.

use serde_json::Value;

/// The alias of a stream, which readers and the indexer use.
pub fn alias(prefix: &str, stream: &str) -> String {
    format!("{prefix}{stream}")
}

/// The name of an index that is made for this alias and mapping. An index that is extended in place keeps its name.
pub fn index(alias: &str, mapping: &Value) -> String {
    format!("{alias}-{:016x}", fingerprint(mapping.to_string().as_bytes()))
}

/// Whether an index of this name was made for this alias by Sluice, as opposed to one that only happens to bear the
/// alias of that name.
pub fn is_index_of(alias: &str, index: &str) -> bool {
    index
        .strip_prefix(alias)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

/// FNV-1a: what is stored must be the same with every release of Rust, which the standard library's hashers do not promise.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_index_is_named_after_its_alias_and_mapping() {
        let alias = alias("test-", "cities");
        let name = index(&alias, &json!({"properties": {"id": {"type": "long"}}}));
        assert_eq!(name, "test-cities-0fb9b19cd7c31e17");
        assert_ne!(name, index(&alias, &json!({"properties": {"id": {"type": "keyword"}}})));
        assert!(is_index_of(&alias, &name));
    }

    #[test]
    fn the_order_of_a_mappings_fields_makes_no_other_index() {
        let [one, other]: [Value; 2] = [r#"{"a":1,"b":{"c":2,"d":3}}"#, r#"{"b":{"d":3,"c":2},"a":1}"#]
            .map(|text| serde_json::from_str(text).unwrap());
        assert_eq!(index("cities", &one), index("cities", &other));
    }

    #[test]
    fn an_index_of_another_stream_or_hand_is_told_apart() {
        for foreign in
            ["cities", "cities-", "cities-2026", "cities-v2-0123456789abcdef", "cities-0123456789ABCDEF", "x"]
        {
            assert!(!is_index_of("cities", foreign), "{foreign}");
        }
    }

    #[test]
    fn the_fingerprint_is_the_published_one() {
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
