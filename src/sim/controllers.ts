import { noEvidence, type PowerEvidence } from '#core/ha/claim.ts';
import type { AgentProcess } from '#sim/agent.ts';
import type { Cluster } from '#sim/cluster.ts';

/** As programs/agent/controllers.ts: one question a node at a time, its answer is a fact of a later round. */
export class SimControllers {
  private readonly known = new Map<string, PowerEvidence>();
  private readonly cluster: Cluster;
  private readonly agent: AgentProcess;

  constructor(cluster: Cluster, agent: AgentProcess) {
    this.cluster = cluster;
    this.agent = agent;
  }

  evidence(node: string): PowerEvidence {
    return this.known.get(node) ?? noEvidence;
  }

  forget(node: string): void {
    if (this.known.get(node)?.busy === false) this.known.delete(node);
  }

  ask(node: string, action: 'read' | 'off' | 'on'): void {
    if (this.evidence(node).busy) return;
    const askedAtBootMs = this.agent.host.bootMs();
    this.update(node, { busy: true });
    if (action === 'off') this.update(node, { offAskedAtBootMs: askedAtBootMs });
    if (action === 'on') this.update(node, { onAskedAtBootMs: askedAtBootMs });
    this.cluster.askController(node, action, (power) => {
      this.agent.deliver(() => {
        if (action === 'read' && power !== null) {
          const read = { power, askedAtBootMs, answeredAtBootMs: this.agent.host.bootMs() };
          this.update(node, { reads: [...this.evidence(node).reads, read].slice(-8) });
        }
        this.update(node, { busy: false });
        this.agent.bells.manager.ring();
      });
    });
  }

  private update(node: string, change: Partial<PowerEvidence>): void {
    this.known.set(node, { ...this.evidence(node), ...change });
  }
}
