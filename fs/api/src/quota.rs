//! Quota: what is limited ([`scope`]), what is configured ([`policy`]) and what is in force and used ([`report`]).

mod policy;
mod report;
mod request;
mod scope;

pub use policy::{
    Bound, Bounds, GroupMembers, KernelEdit, LimitSpec, PolicyDocument, PolicyRecord, QuotaChange, QuotaEdit,
    QuotaField, QuotaHit, QuotaPlan, QuotaRequest, Usage,
};
pub use report::{
    AccountingMode, AuditEntry, AuditList, Binding, CheckReport, CheckRequest, Counting, ExplainStep,
    ExplainedScope, Explanation, LastRecount, LimitSource, QuotaReport, QuotaRow, QuotaState,
};
pub use request::{BoostAnswer, BoostDecision, BoostRequest, BoostRequestList, RequestState, Verdict};
pub use scope::{Boost, Limits, PolicyTarget, QuotaErrno, QuotaMode, ScopeRef};
