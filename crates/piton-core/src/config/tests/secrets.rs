use super::super::Settings;
use super::super::{equal_secrets, live_keys_outside_protected, secret_names, test_keys_inside_protected};
use super::{FULL, resolve};

fn settings(environment: &str, vars: &str) -> Settings {
    let file = format!(".env.{environment}");
    let vars = format!("{vars}\nDATABASE_URL=postgres:///{environment}\nNODE_ENV={environment}\n");
    let store = [("BACKUP_KEY", "key"), ("BACKUP_SECRET", "hunter4")];
    resolve(FULL, &[(&file, &vars)], environment, &store).unwrap()
}

#[test]
fn secrets_are_known_by_name_and_by_value() {
    let vars = "NEXTAUTH_SECRET=a1\nAPI_KEY=b2\nSMTP_PASSWORD=c3\nSENTRY_DSN=d4\nCREDENTIALS=e5\n\
                CACHE=redis://:f6@cache/0\nMAIL=smtp://mail.example\nTOKEN_TTL=3600\nPASSWORD_LOGIN=true\n\
                OLD_SECRET=\nNEXT_PUBLIC_MAPS_KEY=g7\nMONKEY=h8\nSTRIPE=sk_live_i9\ngithub_token=j0\nPAYMENT_KEYS=k1\n";
    let names = [
        "API_KEY",
        "CACHE",
        "CREDENTIALS",
        "NEXTAUTH_SECRET",
        "PAYMENT_KEYS",
        "SENTRY_DSN",
        "SMTP_PASSWORD",
        "STRIPE",
        "github_token",
    ];
    assert_eq!(secret_names(&settings("staging", vars).vars), names);
}

#[test]
fn equal_secrets_are_named_unless_shared() {
    let staging = settings(
        "staging",
        "AUTH_SECRET=same\nAPI_KEY=one\nSENTRY_DSN=same\nLOG=info\nDB=postgres://a:pw@x/y\n",
    );
    let production = settings(
        "production",
        "AUTH_SECRET=same\nAPI_KEY=two\nSENTRY_DSN=same\nLOG=info\nDB=postgres://b:pw@z/w\n",
    );
    let both = [("AUTH_SECRET", "AUTH_SECRET"), ("DB", "DB")];
    assert_eq!(equal_secrets(&staging, &production), both);
    assert_eq!(equal_secrets(&production, &staging), both);
}

#[test]
fn a_secret_is_known_under_another_name() {
    let staging = settings(
        "staging",
        "STRIPE_KEY=sk_test_0a1b2c3d4e\nDB=postgres://a:p%40ssword@x/y\nPAYMENTS=rk_abcdefghijklmnop\n\
         NEXT_PUBLIC_MAPS=maps-key-for-everybody\nCACHE_KEY=sid\nLEVEL=production\n",
    );
    let production = settings(
        "production",
        "STRIPE_SECRET=sk_test_0a1b2c3d4e\nPGPASS_PASSWORD=p@ssword\nPAYMENTS_KEY=rk_abcdefghijklmnop\n\
         MAPS_KEY=maps-key-for-everybody\nSESSION_KEY=sid\nDB_PASSWORD=production\nSENTRY_DSN=rk_abcdefghijklmnop\n",
    );
    let pairs = [("DB", "PGPASS_PASSWORD"), ("PAYMENTS", "PAYMENTS_KEY"), ("STRIPE_KEY", "STRIPE_SECRET")];
    assert_eq!(equal_secrets(&staging, &production), pairs);
    let back = pairs.map(|(a, b)| (b, a));
    assert_eq!(equal_secrets(&production, &staging), [back[1], back[0], back[2]]);
}

#[test]
fn either_name_declares_a_secret_shared() {
    let environments = || {
        let own = settings("staging", "API_KEY=one-and-the-same\n");
        (own, settings("production", "API_TOKEN=one-and-the-same\n"))
    };
    for name in ["API_KEY", "API_TOKEN"] {
        let (mut a, b) = environments();
        assert_eq!(equal_secrets(&a, &b), [("API_KEY", "API_TOKEN")]);
        a.shared_secrets.insert(name.into());
        assert!(equal_secrets(&a, &b).is_empty(), "{name}");
    }
}

#[test]
fn payment_keys_belong_to_their_side() {
    let vars = "A=sk_live_1\nB=pk_live_1\nC=rk_live_1\nD=sk_test_1\nE=pk_test_1\nF=risk_livery\n";
    let (staging, production) = (settings("staging", vars), settings("production", vars));
    assert_eq!(live_keys_outside_protected(&staging), ["A", "B", "C"]);
    assert!(live_keys_outside_protected(&production).is_empty());
    assert_eq!(test_keys_inside_protected(&production), ["D", "E"]);
    assert!(test_keys_inside_protected(&staging).is_empty());
}
