//! How indexes and aliases are named.

use serde_json::Value;

/// The alias of a stream, by which its documents are searched.
pub fn alias(prefix: &str, stream: &str) -> String {
    format!("{prefix}{stream}")
}

/// The alias by which one generation of a stream is written: it stays where it is when another generation is searched.
pub fn write_alias(alias: &str, generation: i32) -> String {
    format!("{alias}.g{generation}")
}

/// The name of an index that is made for this alias, generation and mapping. An index that is extended in place keeps its name.
pub fn index(alias: &str, generation: i32, mapping: &Value) -> String {
    let hash = fingerprint(mapping.to_string().as_bytes());
    if generation > 1 { format!("{alias}.g{generation}-{hash:016x}") } else { format!("{alias}-{hash:016x}") }
}

/// Whether an index of this name was made for this generation by Sluice, as opposed to one that only happens to bear its alias.
pub fn is_index_of(alias: &str, generation: i32, index: &str) -> bool {
    let made_for = if generation > 1 { write_alias(alias, generation) } else { alias.to_owned() };
    index
        .strip_prefix(&made_for)
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
        let mapping = json!({"properties": {"id": {"type": "long"}}});
        let name = index(&alias, 1, &mapping);
        assert_eq!(name, "test-cities-0fb9b19cd7c31e17");
        assert_ne!(name, index(&alias, 1, &json!({"properties": {"id": {"type": "keyword"}}})));
        let second = index(&alias, 2, &mapping);
        assert_eq!(second, "test-cities.g2-0fb9b19cd7c31e17");
        for (generation, index) in [(1, &name), (2, &second)] {
            assert!(is_index_of(&alias, generation, index), "{index}");
            assert!(!is_index_of(&alias, 3 - generation, index), "{index}");
        }
    }

    #[test]
    fn the_order_of_a_mappings_fields_makes_no_other_index() {
        let [one, other]: [Value; 2] = [r#"{"a":1,"b":{"c":2,"d":3}}"#, r#"{"b":{"d":3,"c":2},"a":1}"#]
            .map(|text| serde_json::from_str(text).unwrap());
        assert_eq!(index("cities", 1, &one), index("cities", 1, &other));
    }

    #[test]
    fn an_index_of_another_stream_or_hand_is_told_apart() {
        for foreign in
            ["cities", "cities-", "cities-2026", "cities-v2-0123456789abcdef", "cities-0123456789ABCDEF", "x"]
        {
            assert!(!is_index_of("cities", 1, foreign), "{foreign}");
        }
    }

    #[test]
    fn the_fingerprint_is_the_published_one() {
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
