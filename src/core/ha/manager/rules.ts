/**
 * Placement rules as the operator writes them; compiled-rules.ts tells what they mean together.
 */
type RuleBase = { id: string; enabled: boolean; guests: string[] };

/** Higher ranks are preferred. `hard`: no other node will do; else all others stand at rank -1. */
export type NodeRule = RuleBase & { kind: 'prefer-nodes'; hard: boolean; nodes: { node: string; rank: number }[] };
export type TogetherRule = RuleBase & { kind: 'keep-together' };
export type ApartRule = RuleBase & { kind: 'keep-apart' };
export type Rule = NodeRule | TogetherRule | ApartRule;
