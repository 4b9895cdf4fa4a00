//! Random trees of delegation of every kind of capability, within and across tenants; random revocations, by membrane, by tenant and
//! of one leaked token; time that passes. What the registry says is alive is exactly what a ten-line model says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use capability::Role;
use common::{NOW, Reply, World};
use proptest::prelude::*;
use serde_json::json;
use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

/// Indexes choose among the capabilities that there are for it.
#[derive(Debug, Clone)]
enum Step {
    /// Through a create control, under one of a few ids, so that they meet again.
    Create(usize, u8),
    /// Through an export control, with an expiry this far away.
    Export(usize, Option<u64>),
    /// Through the first, of whatever kind the second is.
    ReExport(usize, usize, Option<u64>),
    /// With a revoke or deleteSelf control.
    Use(usize),
    /// What the operator does with a leaked token.
    Leaked(usize),
    /// Seconds pass.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let any = any::<usize>;
    let expiry = || proptest::option::weighted(0.3, 1..30u64);
    prop_oneof![
        5 => (any(), 0..8u8).prop_map(|(through, id)| Step::Create(through, id)),
        4 => (any(), expiry()).prop_map(|(through, at)| Step::Export(through, at)),
        12 => (any(), any(), expiry()).prop_map(|(through, what, at)| Step::ReExport(through, what, at)),
        2 => any().prop_map(Step::Use),
        1 => any().prop_map(Step::Leaked),
        1 => (1..6u64).prop_map(Step::Pass),
    ]
}

/// The model. Tenants, membranes and capabilities have a number each.
#[derive(Clone, Debug)]
struct Known {
    number: usize,
    token: String,
    /// The role with the tenant and the membrane it acts on; none for a grant.
    role: Option<(Role, usize, usize)>,
    needs: HashSet<usize>,
    expires_at: u64,
}

#[derive(Default)]
struct Model {
    known: Vec<Known>,
    /// (number, tenant, id, the two URIs as `create` gave them, what it needs)
    membranes: Vec<(usize, usize, u8, serde_json::Value, Known)>,
    dead: HashSet<usize>,
    now: u64,
    numbers: usize,
}

impl Model {
    /// All of it: what is needed is alive, less what a revoke or deleteSelf control acts on, and time has not run out.
    fn is_alive(&self, known: &Known) -> bool {
        let ignored = match known.role {
            Some((Role::Revoke, _, membrane)) => Some(membrane),
            Some((Role::DeleteSelf, tenant, _)) => Some(tenant),
            _ => None,
        };
        let mut needs = known.needs.iter().chain([&known.number]);
        self.now < known.expires_at && needs.all(|need| Some(*need) == ignored || !self.dead.contains(need))
    }

    fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    fn add(
        &mut self,
        token: String,
        role: Option<(Role, usize, usize)>,
        needs: HashSet<usize>,
        expires_at: u64,
    ) {
        let number = self.number();
        self.known.push(Known { number, token, role, needs, expires_at });
    }

    fn pick(&self, wanted: impl Fn(Option<Role>) -> bool, index: usize) -> Option<Known> {
        let all: Vec<_> =
            self.known.iter().filter(|known| wanted(known.role.map(|(role, ..)| role))).collect();
        (!all.is_empty()).then(|| all[index % all.len()].clone())
    }
}

/// Refused for its depth alone, and then there is that much that it would depend on.
fn is_too_deep(reply: &Reply, needs: &HashSet<usize>) -> bool {
    let refused = reply.status == 400 && reply.text.contains("16 times");
    assert!(!refused || needs.len() > 16, "refused with {} needs", needs.len());
    refused
}

async fn play(steps: Vec<Step>) {
    let world = World::new();
    let mut model = Model { now: NOW, ..Model::default() };
    for id in ["0", "1"] {
        let (tenant, number) = (world.tenant(id), model.number());
        for (role, token) in [
            (Role::Create, tenant.create),
            (Role::Query, tenant.query),
            (Role::DeleteSelf, tenant.delete_self),
        ] {
            model.add(token, Some((role, number, number)), HashSet::from([number]), u64::MAX);
        }
    }
    let count = steps.len();
    for (index, step) in steps.into_iter().enumerate() {
        match step {
            Step::Create(through, id) => {
                let create = model.pick(|role| role == Some(Role::Create), through).unwrap();
                let (_, tenant, _) = create.role.unwrap();
                let reply = world.call("POST", "/", &create.token, json!({"id": id.to_string()})).await;
                let mut needs = create.needs.clone();
                let number = model.number();
                needs.extend([tenant, number]);
                if is_too_deep(&reply, &needs) {
                    continue;
                }
                let taken = model.membranes.iter().any(|(_, other, taken, _, as_export)| {
                    (*other, *taken) == (tenant, id) && model.is_alive(as_export)
                });
                let expected = if !model.is_alive(&create) {
                    401
                } else if taken {
                    409
                } else {
                    201
                };
                assert_eq!(reply.status, expected, "{}", reply.text);
                if expected == 201 {
                    for (role, name) in [(Role::Export, "export"), (Role::Revoke, "revoke")] {
                        let token = common::token(&reply.json["capabilities"][name]);
                        model.add(token, Some((role, tenant, number)), needs.clone(), create.expires_at);
                    }
                    // Whoever stood there was dead without having been revoked, and is revoked so that the id is free: a control of
                    // another membrane that was delegated through it is dead then too, even if that one's own end did not count.
                    let stood = |(_, other, taken, ..): &&(usize, usize, u8, serde_json::Value, Known)| {
                        (*other, *taken) == (tenant, id)
                    };
                    model.dead.extend(model.membranes.iter().filter(stood).map(|(number, ..)| *number));
                    // It is listed as long as nothing that it needs is dead: as an export control would be, were it never leaked.
                    let stands = Known { number, role: None, needs, ..create };
                    model.membranes.push((number, tenant, id, reply.json, stands));
                }
            }
            Step::Export(through, expires) | Step::ReExport(through, _, expires) => {
                let Some(export) = model.pick(|role| role == Some(Role::Export), through) else { continue };
                let source = match step {
                    Step::ReExport(_, what, _) => model.pick(|_| true, what),
                    _ => None,
                };
                let mut body = match &source {
                    Some(source) => json!({"capability": common::uri(&source.token)}),
                    None => json!({"uri": "https://example.com/"}),
                };
                // NOW is 2026-09-21T14:13:20Z.
                if let Some(seconds) = expires {
                    body["expiresAt"] = format!("2026-09-21T14:13:{}Z", 20 + seconds).into();
                }
                let mut needs = export.needs.clone();
                let (mut expires_at, mut role) = (export.expires_at, None);
                if let Some(source) = &source {
                    needs.extend(source.needs.iter().chain([&source.number]));
                    (expires_at, role) = (expires_at.min(source.expires_at), source.role);
                }
                let reply = world.call("POST", "/", &export.token, body).await;
                if is_too_deep(&reply, &needs) {
                    continue;
                }
                // A dead source is refused though its revoke control would still be answered.
                let alive = model.is_alive(&export)
                    && source.iter().all(|source| model.is_alive(&Known { role: None, ..source.clone() }));
                assert_eq!(reply.status == 201, alive, "{}", reply.text);
                if alive {
                    let expires_at = expires.map_or(expires_at, |seconds| expires_at.min(NOW + seconds));
                    model.add(common::token(&reply.json["capability"]), role, needs, expires_at);
                }
            }
            Step::Use(which) => {
                // The end of a tenant late, or there is soon nothing left to test.
                let late = index * 4 > count * 3;
                let wanted = |role| role == Some(Role::Revoke) || (late && role == Some(Role::DeleteSelf));
                let Some(control) = model.pick(wanted, which) else { continue };
                let alive = model.is_alive(&control);
                assert_eq!(world.revoke(&control.token).await == 202, alive);
                if let Some((role, tenant, membrane)) = control.role.filter(|_| alive) {
                    model.dead.insert(if role == Role::Revoke { membrane } else { tenant });
                }
            }
            Step::Leaked(which) => {
                let leaked = model.pick(|_| true, which).unwrap();
                registry::operator::revoke_token(&world.registry, &leaked.token).unwrap();
                model.dead.insert(leaked.number);
            }
            Step::Pass(seconds) => {
                model.now += seconds;
                world.clock.0.store(model.now, Relaxed);
            }
        }
    }
    for known in &model.known {
        let lives = match known.role {
            None => world.is_alive(&known.token).await,
            // No control takes it: one that is alive says so, one that is not is unknown.
            Some(_) => match world.call("PUT", "/", &known.token, "").await.status.as_u16() {
                405 => true,
                status => {
                    assert_eq!(status, 401);
                    false
                }
            },
        };
        assert_eq!(lives, model.is_alive(known), "{known:?}");
        if let (true, Some((Role::Query, tenant, _))) = (lives, known.role) {
            let mut stand: Vec<_> = model
                .membranes
                .iter()
                .filter(|(_, of, _, _, stands)| *of == tenant && model.is_alive(stands))
                .collect();
            stand.sort_by_key(|(_, _, id, ..)| *id);
            let stand: Vec<_> = stand.into_iter().map(|(_, _, _, created, _)| created).collect();
            let listed = world.call("GET", "/?limit=99", &known.token, "").await;
            assert_eq!(listed.json, json!({"membranes": stand, "completed": true}));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn alive_is_what_the_model_says(steps in proptest::collection::vec(step(), 10..90)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(steps));
    }
}
