//! Random trees of delegation within and across tenants, random revocations: what the registry says is alive is exactly what a
//! ten-line model says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use common::{Membrane, Tenant, World};
use proptest::prelude::*;
use serde_json::json;
use std::collections::HashSet;

#[derive(Debug, Clone)]
enum Step {
    /// Through the create capability with this index.
    Create(usize),
    /// Through the export capability with the first index; again, the capability with the second.
    Export(usize),
    ReExport(usize, usize),
    Revoke(usize),
    DeleteSelf(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let any = any::<usize>;
    prop_oneof![
        3 => any().prop_map(Step::Create),
        3 => any().prop_map(Step::Export),
        6 => (any(), any()).prop_map(|(through, what)| Step::ReExport(through, what)),
        2 => any().prop_map(Step::Revoke),
        1 => any().prop_map(Step::DeleteSelf),
    ]
}

/// What may be done with a capability.
#[derive(Clone, Copy, PartialEq, Debug)]
enum What {
    Grant,
    Create(usize),
    Export(usize, usize),
}

/// The model: a capability lives as long as everything in `needs` does. Tenants are 0, 1, …; membranes 1000, 1001, …
#[derive(Clone)]
struct Known {
    token: String,
    what: What,
    needs: HashSet<usize>,
}

#[derive(Default)]
struct Model {
    capabilities: Vec<Known>,
    dead: HashSet<usize>,
}

impl Model {
    fn is_alive(&self, known: &Known) -> bool {
        known.needs.is_disjoint(&self.dead)
    }
}

async fn play(steps: Vec<Step>) {
    let world = World::new();
    let tenants: Vec<Tenant> = (0..2).map(|index| world.tenant(&index.to_string())).collect();
    let mut model = Model::default();
    let mut membranes: Vec<(usize, Membrane, HashSet<usize>)> = Vec::new();
    for (index, tenant) in tenants.iter().enumerate() {
        let (token, needs) = (tenant.create.clone(), HashSet::from([index]));
        model.capabilities.push(Known { token, what: What::Create(index), needs });
    }
    for (number, step) in steps.into_iter().enumerate() {
        let pick = |wanted: fn(&What) -> bool, index: usize| {
            let all: Vec<Known> =
                model.capabilities.iter().filter(|known| wanted(&known.what)).cloned().collect();
            (!all.is_empty()).then(|| all[index % all.len()].clone())
        };
        match step {
            Step::Create(index) => {
                let Some(create) = pick(|what| matches!(what, What::Create(_)), index) else { continue };
                let What::Create(tenant) = create.what else { continue };
                let reply = world.call("POST", "/", &create.token, json!({"id": number.to_string()})).await;
                assert_eq!(reply.status == 201, model.is_alive(&create), "{}", reply.text);
                if reply.status == 201 {
                    let uris = &reply.json["capabilities"];
                    let (export, revoke) = (common::token(&uris["export"]), common::token(&uris["revoke"]));
                    let id = 1000 + membranes.len();
                    let mut needs = create.needs.clone();
                    needs.extend([tenant, id]);
                    let what = What::Export(tenant, id);
                    model.capabilities.push(Known { token: export.clone(), what, needs: needs.clone() });
                    membranes.push((id, Membrane { export, revoke }, needs));
                }
            }
            Step::Export(index) | Step::ReExport(index, _) => {
                let Some(export) = pick(|what| matches!(what, What::Export(..)), index) else { continue };
                let What::Export(tenant, membrane) = export.what else { continue };
                let source = match step {
                    Step::ReExport(_, what) => pick(|_| true, what),
                    _ => None,
                };
                let body = match &source {
                    Some(source) => json!({"capability": common::uri(&source.token)}),
                    None => json!({"uri": "https://example.com/"}),
                };
                let reply = world.call("POST", "/", &export.token, body).await;
                if reply.text.contains("at most 16") {
                    continue;
                }
                let alive =
                    model.is_alive(&export) && source.as_ref().is_none_or(|source| model.is_alive(source));
                assert_eq!(reply.status == 201, alive, "{}", reply.text);
                if alive {
                    let mut needs = export.needs.clone();
                    needs.extend([tenant, membrane]);
                    needs.extend(source.iter().flat_map(|source| source.needs.iter().copied()));
                    let what = source.map_or(What::Grant, |source| source.what);
                    model.capabilities.push(Known {
                        token: common::token(&reply.json["capability"]),
                        what,
                        needs,
                    });
                }
            }
            Step::Revoke(index) => {
                if membranes.is_empty() {
                    continue;
                }
                let (id, membrane, needs) = &membranes[index % membranes.len()];
                // Its own death does not matter to a revoke control; that of everything else does.
                let presentable = needs.iter().all(|need| need == id || !model.dead.contains(need));
                assert_eq!(world.revoke(&membrane.revoke).await == 202, presentable);
                if presentable {
                    model.dead.insert(*id);
                }
            }
            // Late and seldom, or there is soon nothing left to test.
            Step::DeleteSelf(index) if number > 25 => {
                let tenant = index % tenants.len();
                assert_eq!(world.call("DELETE", "/", &tenants[tenant].delete_self, "").await.status, 202);
                model.dead.insert(tenant);
            }
            Step::DeleteSelf(_) => {}
        }
    }
    for known in &model.capabilities {
        let lives = match known.what {
            What::Grant => world.is_alive(&known.token).await,
            // An empty body is 400 from a control that is alive, and 401 from one that is not.
            What::Create(_) | What::Export(..) => {
                world.call("POST", "/", &known.token, "").await.status == 400
            }
        };
        assert_eq!(lives, model.is_alive(known), "{:?}", known.what);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn alive_is_what_the_model_says(steps in proptest::collection::vec(step(), 10..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(steps));
    }
}
