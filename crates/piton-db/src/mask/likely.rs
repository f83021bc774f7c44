//! Which columns look like people's data, told by their names and types.
//!
//! What can hold any text is people's until its name says that it is technical; a number or a date is people's when its name says so.

use super::Kind;
use super::column::{Column, Sort};

const EMAILS: &[&str] = &["email", "mail"];
const NAMES: &[&str] = &[
    "name", "surname", "nickname", "login", "holder", "nick", "vorname", "nachname", "nombre", "apellido",
    "nome",
];
/// Numbers that tell of one person.
const NUMBERS: &[&str] = &[
    "phone",
    "telephone",
    "tel",
    "mobile",
    "cell",
    "fax",
    "ssn",
    "passport",
    "iban",
    "bic",
    "card",
    "cvv",
    "pin",
    "account",
    "zip",
    "postcode",
    "postal",
    "salary",
    "income",
    "age",
    "wage",
    "msisdn",
    "imei",
    // Of one country each: what its people and firms are numbered by.
    "aadhaar",
    "bsn",
    "cnp",
    "cnpj",
    "cpf",
    "cuil",
    "cuit",
    "curp",
    "dni",
    "egn",
    "jmbg",
    "nhs",
    "nie",
    "nif",
    "nin",
    "nino",
    "nric",
    "oib",
    "pesel",
    "rut",
    "sin",
    "snils",
    "tfn",
    "tin",
    "whatsapp",
    "telegram",
    "pan",
    "telefon",
    "handy",
    "handynummer",
    "rufnummer",
    "telefono",
    "celular",
    "movil",
    "telefone",
    "kontonummer",
    "plz",
    "postleitzahl",
    "steuernummer",
    "steuernr",
    "steuerid",
    "sozialversicherungsnummer",
    "sozialversicherungsnr",
    "nip",
    "cedula",
    "rodne",
    "gehalt",
    "lohn",
    "salario",
    "ausweis",
    "ausweisnummer",
];
const BIRTH: &[&str] = &[
    "birth",
    "birthday",
    "birthdate",
    "born",
    "dob",
    "death",
    "died",
    "deceased",
    "geburt",
    "geburtstag",
    "geburtsdatum",
    "geboren",
    "nacimiento",
    "nascimento",
];
const PERSONAL: &[&str] = &[
    "address",
    "street",
    "city",
    "password",
    "passwd",
    "secret",
    "token",
    "otp",
    "verification",
    "recovery",
    "session",
    "signature",
    "gender",
    "sex",
    "religion",
    "ethnicity",
    "nationality",
    "latitude",
    "longitude",
    "lat",
    "lng",
    "lon",
    "long",
    "geo",
    "geom",
    "geometry",
    "geography",
    "geohash",
    "geolocation",
    "geopoint",
    "coord",
    "coordinate",
    "gps",
    "location",
    "avatar",
    "photo",
    "ip",
    "license",
    "licence",
    "government",
    "patient",
    "fiscal",
    "insurance",
    "mfa",
    "backup",
    "reset",
    "invite",
    "access",
    "twitter",
    "facebook",
    "instagram",
    "linkedin",
    "skype",
    "apple",
    "google",
    "device",
    "blood",
    "marital",
    "health",
    "medical",
    "disease",
    "diagnosis",
    "passwort",
    "kennwort",
    "pwd",
    "contrasena",
    "senha",
    "adresse",
    "strasse",
    "ort",
    "wohnort",
    "direccion",
    "endereco",
    "geschlecht",
    "api",
];
/// Two words that speak for people's data together, and neither of them alone.
const PAIRS: &[&str] = &["taxid", "nationalid", "personalid", "vatid", "vatnumber"];
/// What a column holds that is the program's own, by the last word of its name.
const TECHNICAL: &[&str] = &[
    "id", "uuid", "guid", "status", "type", "kind", "currency", "version", "mode", "level", "role", "locale",
    "format", "unit", "color", "priority", "checksum", "sku", "mime",
];
/// What a number is that only points at people's data or counts it, by the last word of its name.
const REFERENCES: &[&str] = &["id", "count"];
/// What stands before or behind such words when they are written as one: `phonenumber`, `dateofbirth`.
const PARTS: &[&str] = &[
    "number", "no", "code", "date", "of", "day", "year", "place", "first", "last", "middle", "full", "user",
    "customer", "contact", "home", "work", "billing", "shipping", "credit", "bank", "client",
];

impl Column {
    /// Returns the kind that the column's name and type speak for, if they speak for people's data.
    pub(super) fn likely(&self) -> Option<Kind> {
        let words = words(&self.name);
        let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
        let ends = |wanted: &[&str]| words.last().is_some_and(|word| wanted.contains(&word.as_str()));
        let paired = has(PAIRS) || words.windows(2).any(|pair| PAIRS.contains(&pair.concat().as_str()));
        let marked = has(NUMBERS) || has(BIRTH) || has(PERSONAL);
        let named = has(EMAILS) || has(NAMES);
        match self.sort {
            Sort::Text | Sort::Json | Sort::Content if ends(TECHNICAL) && !(paired || marked || named) => {
                None
            }
            Sort::Text if has(EMAILS) => Some(Kind::Email),
            Sort::Text if has(NAMES) => Some(Kind::Name),
            Sort::Text if has(NUMBERS) || paired => Some(Kind::Digits),
            Sort::Text | Sort::Json | Sort::Content => Some(self.any_kind()),
            Sort::Number if paired || marked && !ends(REFERENCES) => Some(Kind::Digits),
            Sort::Other if paired || marked && !ends(TECHNICAL) => Some(self.any_kind()),
            Sort::Time if has(BIRTH) => Some(Kind::Year),
            Sort::Number | Sort::Other | Sort::Time | Sort::Flag => None,
        }
    }

    /// Returns the kind that hides whatever the column holds; `keep` only where its type leaves no other.
    pub(super) fn any_kind(&self) -> Kind {
        match self.sort {
            Sort::Text => Kind::Text,
            Sort::Json => Kind::Json,
            Sort::Number => Kind::Digits,
            Sort::Time => Kind::Year,
            Sort::Content | Sort::Other | Sort::Flag if !self.not_null => Kind::Null,
            Sort::Content | Sort::Other | Sort::Flag if self.blank.is_some() => Kind::Blank,
            Sort::Content | Sort::Other | Sort::Flag => Kind::Keep,
        }
    }
}

/// Splits a column's name into its words, each in the singular: `homeAddresses2`, `home_address` and `HOME ADDRESS` are one.
fn words(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (at, &c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| chars.get(at)).copied().unwrap_or(' ');
        let after = chars.get(at + 1).copied().unwrap_or(' ');
        // Also within `IPAddress`.
        let begins =
            c.is_uppercase() && (before.is_lowercase() || before.is_uppercase() && after.is_lowercase());
        if begins || !c.is_alphabetic() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphabetic()) {
            word.extend(c.to_lowercase());
        }
    }
    let whole = words.iter().filter(|word| !word.is_empty());
    whole.flat_map(|word| parts(&singular(word)).unwrap_or_else(|| vec![singular(word)])).collect()
}

/// Splits a word into known ones that make it up; `capacity` is no city.
fn parts(word: &str) -> Option<Vec<String>> {
    if word.is_empty() {
        return Some(Vec::new());
    }
    [EMAILS, NAMES, NUMBERS, BIRTH, PERSONAL, PARTS].into_iter().flatten().find_map(|part| {
        let mut found = vec![(*part).to_owned()];
        found.extend(parts(word.strip_prefix(part)?)?);
        Some(found)
    })
}

fn singular(word: &str) -> String {
    let kept = ["ss", "us", "is"].iter().any(|end| word.ends_with(end)) || word.len() < 3;
    if let Some(stem) = word.strip_suffix("ies") {
        return format!("{stem}y");
    }
    let stem = word.strip_suffix("es").filter(|stem| stem.ends_with("ss") || stem.ends_with('x'));
    stem.or_else(|| word.strip_suffix('s').filter(|_| !kept)).unwrap_or(word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, sort: Sort) -> Column {
        Column {
            name: name.into(),
            data_type: String::new(),
            sort,
            most: usize::MAX,
            largest: None,
            padded: false,
            not_null: false,
            unique: false,
            blank: None,
        }
    }

    #[test]
    fn a_columns_name_is_split_into_words() {
        for (name, split) in [
            ("firstName", "first name"),
            ("first_name", "first name"),
            ("firstname", "first name"),
            ("FIRST NAMES", "first name"),
            ("IPAddress", "ip address"),
            ("E-Mail", "e mail"),
            ("phone2", "phone"),
            ("phonenumber", "phone number"),
            ("zipcode", "zip code"),
            ("dateofbirth", "date of birth"),
            ("creditcardnumbers", "credit card number"),
            ("home_addresses", "home address"),
            ("cities", "city"),
            ("status", "status"),
            ("renamed_at", "renamed at"),
            ("allocation", "allocation"),
            ("2", ""),
        ] {
            assert_eq!(words(name).join(" "), split, "{name}");
        }
    }

    /// Wants each of the names to speak for the kind, in a column of the sort.
    fn speak(sort: Sort, names: &[&str], kind: Option<Kind>) {
        for name in names {
            assert_eq!(column(name, sort).likely(), kind, "{name} as {sort:?}");
        }
    }

    #[test]
    fn names_and_types_tell_peoples_data() {
        use Kind::{Digits, Email, Json, Name, Null, Text, Year};
        speak(Sort::Text, &["whatsapp_id", "telefon", "steuernummer"], Some(Digits));
        speak(Sort::Text, &["blood_type", "health_status", "device_id"], Some(Text));
        speak(Sort::Time, &["geburtstag", "deceased_on"], Some(Year));
        let technical = ["id", "order_id", "uuid", "status", "orderStatus", "kind", "currency"];
        for sort in [Sort::Text, Sort::Json, Sort::Content] {
            speak(sort, &technical, None);
        }
        speak(Sort::Text, &["email", "EMails", "backup_mail", "mail2", "email_status"], Some(Email));
        speak(Sort::Text, &["name", "firstname", "surname", "usernames", "nick", "card_holder"], Some(Name));
        let numbers = ["phone", "phone_2", "phonenumber", "zipcode", "card_number", "tax_id", "nationalId"];
        speak(Sort::Text, &numbers, Some(Digits));
        let free = [
            "note",
            "subject",
            "x",
            "address1",
            "IPAddress",
            "session_id",
            "token_type",
            "hash",
            "url",
            "backupCodes",
            "patient_id",
            "slug",
            "state",
        ];
        speak(Sort::Text, &free, Some(Text));
        speak(Sort::Json, &["settings", "payload", "contacts"], Some(Json));
        speak(Sort::Content, &["phones", "names", "photo", "ip", "tags", "search", "document"], Some(Null));
        let numbers = ["phone", "ssn", "zip", "zip_code", "account", "tax_id", "pin", "birth_year", "age"];
        speak(Sort::Number, &numbers, Some(Digits));
        let abroad =
            ["cpf", "cpfNumber", "bsn", "pesel", "aadhaar_no", "tin", "lat", "home_lng", "latlng", "geo_x"];
        speak(Sort::Number, &abroad, Some(Digits));
        let plain = [
            "id",
            "amount",
            "account_id",
            "token_count",
            "capacity",
            "allocation",
            "electricity",
            "page",
            "quantity",
            "price",
            "duration",
            "platform",
            "belong",
        ];
        speak(Sort::Number, &plain, None);
        speak(Sort::Time, &["birthday", "dateofbirth", "born", "DOB"], Some(Year));
        speak(Sort::Time, &["created_at", "email_verified_at", "last_login"], None);
        speak(Sort::Other, &["gender", "latitude", "lat", "geoLng", "token", "phones"], Some(Null));
        speak(Sort::Other, &["mood", "session_id", "address_type", "ratio"], None);
        speak(Sort::Flag, &["phone_verified", "has_photo", "address"], None);
    }

    #[test]
    fn keep_is_the_remedy_only_where_no_other_is() {
        let ip = Column { not_null: true, blank: Some("0.0.0.0"), ..column("ip", Sort::Content) };
        assert_eq!(ip.likely(), Some(Kind::Blank));
        assert_eq!(Column { blank: None, ..ip }.likely(), Some(Kind::Keep));
    }
}
