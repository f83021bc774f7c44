//! The JSON Schema of `piton.toml`.

use serde_json::Value;

use super::model::File;

/// Returns the JSON Schema of `piton.toml`, made from the types that read it, for completion in editors.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(File).to_value();
    drop_null(&mut schema);
    schema
}

/// Takes `null` out of the types: an optional key is left out in TOML, it cannot be null.
fn drop_null(schema: &mut Value) {
    let Value::Object(object) = schema else {
        if let Value::Array(items) = schema {
            items.iter_mut().for_each(drop_null);
        }
        return;
    };
    if let Some(Value::Array(kinds)) = object.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [one] = &kinds[..] {
            let one = one.clone();
            object.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(options)) = object.get_mut("anyOf") {
        options.retain(|option| option.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(one)] = &mut options[..] {
            let one = std::mem::take(one);
            object.remove("anyOf");
            object.extend(one);
        }
    }
    object.values_mut().for_each(drop_null);
}
