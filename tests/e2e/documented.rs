//! The examples of the published documentation, each with its published answer; all that differs are host and tokens.
//!
//! * capability-sdk's own pages, `README.md` and `services/Membrane.md`: run from the installed package as they stand
//!   there (`tests/clients/documented.js`).
//! * The Membrane Service's archived documentation (github.com/capabilityio/membrane-service-docs-archive): its curl
//!   command lines, argument for argument, and its Node examples, which all use `https` in one way
//!   (`tests/clients/https.js`) with the options and bodies given here. Pages: `create-membrane.md`,
//!   `export-capability.md`, `query-membranes.md`, `revoke-membrane.md`, `your-first-membrane.md`,
//!   `accounts-as-membranes.md`, `aws-lambda-capability.md`. Their `capi` command lines are in `command_line.rs`.
//!
//! The documented upstream files are on hosts that cannot be reached from a test: the recording origin stands for them,
//! at the same paths.

use crate::clients::{assert_capability, invocation, members};
use crate::{eventually, folder, shared};
use harness::aws::REGION;
use harness::gateway::{Gateway, text};
use harness::origin::{ANSWER, RECORDER};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// The file of `your-first-membrane.md`, and the inbox of `accounts-as-membranes.md`.
const FILE: &str =
    "/tristanls/b47430985858978669b7/raw/d5c221dd2b9959c2d271369bf50e8cef6aa2b2d9/gistfile1.json";
const INBOX: &str = "/tristanls/6703ffd0fd3755cbed0b/raw/8b4db63e9ea276b0d86b7417246c9c2ce456317f/managing-accounts-as-membranes-guide-example-20160205.json";

/// The two tools that the documentation speaks to the service with.
#[derive(Clone, Copy)]
enum Tool {
    Curl,
    Https,
}

/// One documented request. Where it says no method, the example says none.
struct Example<'a> {
    method: Option<&'a str>,
    path: Option<&'a str>,
    token: &'a str,
    body: Option<Value>,
}

impl<'a> Example<'a> {
    fn get(capability: &'a str) -> Self {
        Example { method: None, path: None, token: token(capability), body: None }
    }

    fn post(capability: &'a str, body: Value) -> Self {
        Example { method: Some("POST"), body: Some(body), ..Example::get(capability) }
    }

    /// The answer's status and body.
    fn ask(&self, gateway: &Gateway, tool: Tool) -> (u16, Value) {
        let (status, body) = match tool {
            Tool::Curl => self.curl(gateway),
            Tool::Https => self.https(gateway),
        };
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// `curl -XPOST https://host -H "Authorization: Bearer $TOKEN" -d '{…}'`. What only concerns this place (whom to
    /// trust, no proxy, the status) is in curl's own configuration file.
    fn curl(&self, gateway: &Gateway) -> (u16, String) {
        let home = curl_home(gateway);
        let mut command = Command::new("curl");
        command.env("CURL_HOME", home).env("HOME", home);
        if let Some(method) = self.method {
            command.arg(format!("-X{method}"));
        }
        command.arg(format!(
            "https://localhost:{}{}",
            gateway.ports.gateway.number(),
            self.path.unwrap_or_default()
        ));
        command.args(["-H", &format!("Authorization: Bearer {}", self.token)]);
        if let Some(body) = &self.body {
            command.args(["-d", &body.to_string()]);
        }
        let printed = printed(command.output().unwrap());
        let (body, status) = printed.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    fn https(&self, gateway: &Gateway) -> (u16, String) {
        let mut options = json!({
            "hostname": "localhost", "port": gateway.ports.gateway.number(),
            "headers": {"authorization": format!("Bearer {}", self.token)},
        });
        if let Some(method) = self.method {
            options["method"] = method.into();
        }
        if let Some(path) = self.path {
            options["path"] = path.into();
        }
        let mut asked = json!({ "options": options });
        if let Some(body) = &self.body {
            asked["body"] = body.clone();
        }
        let printed = node("https.js", gateway, &asked);
        let (status, body) = printed.split_once('\n').unwrap();
        (status.parse().unwrap(), body.strip_suffix('\n').unwrap().to_owned())
    }
}

/// "the part of your capability that starts with `CPBLTY1-...`"
fn token(capability: &str) -> &str {
    capability.split('#').nth(1).unwrap()
}

/// A folder with a `.curlrc`.
fn curl_home(gateway: &Gateway) -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = folder("curl");
        std::fs::create_dir_all(&home).unwrap();
        let ca = gateway.dir.join("ca.pem");
        let settings = format!(
            "cacert = \"{}\"\nnoproxy = \"*\"\nsilent\nshow-error\nwrite-out = \"\\n%{{http_code}}\"\n",
            ca.display()
        );
        std::fs::write(home.join(".curlrc"), settings).unwrap();
        home
    })
}

/// What a script of `tests/clients` prints, with `told` as its standard input.
fn node(script: &str, gateway: &Gateway, told: &Value) -> String {
    let mut command = harness::node(script).unwrap();
    // The documentation trusts whom Node trusts.
    command.env("NODE_EXTRA_CA_CERTS", gateway.dir.join("ca.pem"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("node, which make tools asks for");
    child.stdin.take().unwrap().write_all(told.to_string().as_bytes()).unwrap();
    printed(child.wait_with_output().unwrap())
}

#[track_caller]
fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn accepted() -> (u16, Value) {
    (202, json!({"statusCode": 202, "message": "Accepted"}))
}

/// 201 and `{"id": …, "capabilities": {"export": …, "revoke": …}}`.
#[track_caller]
fn created(gateway: &Gateway, (status, made): (u16, Value), id: &str) -> (String, String) {
    assert_eq!((status, &made["id"]), (201, &json!(id)), "{}", members(&made).join(" "));
    assert_eq!(
        (members(&made), members(&made["capabilities"])),
        (vec!["capabilities", "id"], vec!["export", "revoke"])
    );
    let uri = |name: &str| text(&made["capabilities"], name).unwrap().to_owned();
    assert_capability(gateway, &uri("export"));
    assert_capability(gateway, &uri("revoke"));
    (uri("export"), uri("revoke"))
}

/// 201 and `{"capability": …}`.
#[track_caller]
fn exported(gateway: &Gateway, (status, made): (u16, Value)) -> String {
    assert_eq!((status, members(&made)), (201, vec!["capability"]));
    let capability = text(&made, "capability").unwrap();
    assert_capability(gateway, capability);
    capability.to_owned()
}

#[test]
fn the_archived_curl_examples() {
    archived("curl", Tool::Curl);
}

#[test]
fn the_archived_node_examples() {
    archived("https", Tool::Https);
}

fn archived(name: &str, tool: Tool) {
    let gateway = shared();
    let tenant = gateway.another_tenant(&format!("documented/{name}")).unwrap();
    let role = |role: &str| text(&tenant, role).unwrap();
    let ask = |example: Example<'_>| example.ask(gateway, tool);
    let create = |id: &str| created(gateway, ask(Example::post(role("create"), json!({"id": id}))), id);

    // create-membrane.md
    create("a-membrane");

    // your-first-membrane.md: create, export, use, revoke
    let (export, revoke) = create("my-first-membrane");
    let file = json!({"uri": format!("https://{RECORDER}{FILE}?{name}")});
    let capability = exported(gateway, ask(Example::post(&export, file)));
    assert_eq!(ask(Example::get(&capability)), (200, json!(ANSWER)));
    let request = gateway.origin().only(&format!("{FILE}?{name}")).unwrap();
    assert_eq!((request.method.as_str(), request.all("authorization")), ("GET", vec![]));
    assert_eq!(ask(Example::get(&revoke)), accepted());
    eventually(401, SOON, || gateway.request(&capability, "GET", "/").send().unwrap());

    // accounts-as-membranes.md: an account, its inbox, delegated and revoked
    let (antoine_export, antoine_revoke) = create("accounts/8a56db8f-d735-444b-bfd8-b71301f3b708");
    let inbox = json!({"uri": format!("https://{RECORDER}{INBOX}?{name}")});
    let antoine = exported(gateway, ask(Example::post(&antoine_export, inbox)));
    assert_eq!(ask(Example::get(&antoine)), (200, json!(ANSWER)));
    let (ayana_export, ayana_revoke) = create("Temporary access for Ayana");
    let ayana = exported(gateway, ask(Example::post(&ayana_export, json!({"capability": antoine}))));
    assert_eq!(ask(Example::get(&ayana)), (200, json!(ANSWER)));
    assert_eq!(ask(Example::get(&ayana_revoke)), accepted());
    // "Attempting to use Ayana's capability will result in `401 Unauthorized` response", Antoine's goes on.
    eventually(401, SOON, || gateway.request(&ayana, "GET", "/").send().unwrap());
    let (status, refused) = ask(Example::get(&ayana));
    assert_eq!((status, &refused["error"]), (401, &json!("Unauthorized")));
    assert_eq!(ask(Example::get(&antoine)), (200, json!(ANSWER)));
    assert_eq!(ask(Example::get(&antoine_revoke)), accepted());
    eventually(401, SOON, || gateway.request(&antoine, "GET", "/").send().unwrap());

    // aws-lambda-capability.md
    let (export, revoke) = create("my-aws-lambda-membrane");
    let key = &gateway.aws.key;
    let function = json!({
        "uri": invocation(), "method": "POST", "allowQuery": false,
        "headers": {"X-Amz-Invocation-Type": "RequestResponse", "X-Amz-Log-Type": "None"},
        "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": key.id, "region": REGION, "service": "lambda",
            "secretAccessKey": key.secret}},
    });
    let invoke = exported(gateway, ask(Example::post(&export, function)));
    // "And the response is whatever your AWS Lambda function returns": moto's own words, where there is no event.
    assert_eq!(ask(Example::get(&invoke)), (200, json!("Simple Lambda happy path OK")));
    assert_eq!(ask(Example::get(&revoke)), accepted());

    // export-capability.md: a capability, and a URI
    let (export, _) = create("exports");
    let www = json!({"uri": format!("https://{RECORDER}/documented/{name}"), "headers": {"TenantID": "tenant17"}, "method": "DELETE"});
    let www = exported(gateway, ask(Example::post(&export, www)));
    let again = exported(gateway, ask(Example::post(&export, json!({"capability": www}))));
    assert_eq!(ask(Example::get(&again)).0, 200);
    let request = gateway.origin().only(&format!("/documented/{name}")).unwrap();
    assert_eq!((request.method.as_str(), request.one("tenantid").unwrap().as_str()), ("DELETE", "tenant17"));
    // As it stands there, too: minted, though no route leads to that host.
    let example =
        json!({"uri": "https://www.example.com", "headers": {"TenantID": "tenant17"}, "method": "DELETE"});
    exported(gateway, ask(Example::post(&export, example)));

    // revoke-membrane.md: DELETE, and then a query for it finds nothing
    let (_, revoke) = create("to-be-revoked");
    assert_eq!(ask(Example { method: Some("DELETE"), ..Example::get(&revoke) }), accepted());
    let gone = Example { path: Some("/?id=to-be-revoked"), ..Example::get(role("query")) };
    assert_eq!(ask(gone), (200, json!({"membranes": [], "completed": true})));
}

/// query-membranes.md, whose three membranes are all that a tenant has.
#[test]
fn the_archived_query_examples() {
    let gateway = shared();
    let tenant = gateway.another_tenant("documented/query").unwrap();
    let (create, query) = (text(&tenant, "create").unwrap(), text(&tenant, "query").unwrap());
    let made = ["my-first-membrane", "my-second-membrane", "my-third-membrane"].map(|id| {
        let (status, made) = Example::post(create, json!({"id": id})).ask(gateway, Tool::Curl);
        assert_eq!(status, 201);
        made
    });
    // The page's two tools write the parameters of the continuation in different orders.
    for (tool, more) in [
        (Tool::Curl, "/?lastId=my-second-membrane&limit=2"),
        (Tool::Https, "/?limit=2&lastId=my-second-membrane"),
    ] {
        let ask = |path| Example { path: Some(path), ..Example::get(query) }.ask(gateway, tool);
        assert_eq!(ask("/?limit=2"), (200, json!({"membranes": made[..2], "completed": false})));
        assert_eq!(ask(more), (200, json!({"membranes": made[2..], "completed": true})));
    }
}

/// What an example of the SDK's documentation logs.
fn sdk(document: &str, heading: &str, example: usize, uris: &[&str], edit: Option<[&str; 2]>) -> Value {
    let mut told = json!({"document": document, "heading": heading, "example": example, "uris": uris});
    if let Some(edit) = edit {
        told["edit"] = json!(edit);
    }
    serde_json::from_str(&node("documented.js", shared(), &told)).unwrap()
}

#[test]
fn the_sdks_membrane_examples() {
    const PAGE: &str = "services/Membrane.md";
    let gateway = shared();
    let tenant = gateway.another_tenant("documented/sdk").unwrap();
    let role = |role: &str| text(&tenant, role).unwrap();

    let logged =
        sdk(PAGE, "membrane.create(createCapability, membrane, callback)", 0, &[role("create")], None);
    let made = &logged[0][0];
    let (export, revoke) = created(gateway, (201, made.clone()), "my-first-membrane");

    // Its example of an export says `method: "get"`, which the SDK itself refuses before it sends anything.
    const EXPORT: &str = "membrane.export(exportCapability, config, callback)";
    let logged = sdk(PAGE, EXPORT, 0, &[&export], None);
    assert_eq!(logged[0][0]["name"], "ValidationError");
    let logged = sdk(PAGE, EXPORT, 0, &[&export], Some([r#""get""#, r#""GET""#]));
    let capability = exported(gateway, (201, logged[0][0].clone()));
    let logged = sdk(PAGE, EXPORT, 1, &[&export, &capability], None);
    assert_ne!(exported(gateway, (201, logged[0][0].clone())), capability);

    // Its example of a query passes null, which the SDK refuses likewise.
    const QUERY: &str = "membrane.query(queryCapability, query, callback)";
    let logged = sdk(PAGE, QUERY, 0, &[role("query")], None);
    assert_eq!(logged[0][0]["name"], "ValidationError");
    let logged = sdk(PAGE, QUERY, 0, &[role("query")], Some(["null", "undefined"]));
    assert_eq!(logged, json!([[{"membranes": [made], "completed": true}]]));

    // These two log errors alone.
    assert_eq!(sdk(PAGE, "membrane.revoke(revokeCapability, callback)", 0, &[&revoke], None), json!([]));
    let left = Example { path: Some("/?id=my-first-membrane"), ..Example::get(role("query")) };
    assert_eq!(left.ask(gateway, Tool::Curl), (200, json!({"membranes": [], "completed": true})));
    const DELETE_SELF: &str = "membrane.deleteSelf(deleteSelfCapability, callback)";
    assert_eq!(sdk(PAGE, DELETE_SELF, 0, &[role("deleteSelf")], None), json!([]));
    assert_eq!(Example::get(role("query")).ask(gateway, Tool::Curl).0, 401);
    // And do log them.
    let logged = sdk(PAGE, "membrane.revoke(revokeCapability, callback)", 0, &[&revoke], None);
    assert_eq!(logged[0][0]["statusCode"], 401);
}

#[test]
fn the_sdks_request_examples() {
    const PAGE: &str = "README.md";
    let gateway = shared();
    let membrane = crate::membrane("documented/requests");
    let function = json!({"uri": invocation(), "method": "POST", "hmac": gateway.aws4("lambda")});
    let invoke = gateway.export(&membrane, &function).unwrap();

    // A GET with a body and its length.
    const REQUEST_REPLY: &str = "CapabilitySDK.requestReply(capability, options, data, callback)";
    assert_eq!(sdk(PAGE, REQUEST_REPLY, 0, &[&invoke], None), json!([[{"hi": "o/"}]]));
    // A GET with a body that no header announces, as Node sends it: no server may read it, and the answer comes.
    let what = json!({"uri": format!("https://{RECORDER}/documented/request")});
    let capability = gateway.export(&membrane, &what).unwrap();
    let logged = sdk(PAGE, "CapabilitySDK.request(capability, options, callback)", 0, &[&capability], None);
    let said: Vec<&str> = logged.as_array().unwrap().iter().map(|line| line[0].as_str().unwrap()).collect();
    assert_eq!(said[0], "STATUS: 200");
    let headers: Value = serde_json::from_str(said[1].strip_prefix("HEADERS: ").unwrap()).unwrap();
    assert_eq!(headers["content-type"], "text/plain");
    assert_eq!(said[2..], [format!("BODY: {ANSWER}").as_str(), "No more data in response."]);
    assert!(gateway.origin().only("/documented/request").unwrap().body.is_empty());
}
