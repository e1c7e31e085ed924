/**
 * One call of the fence agent adapter, for a test that must make it inside a lab's client namespace. Arguments: JSON of the
 * adapter's options, then `status`, `off` or `on`. Prints one line of JSON: {ok, power?, kind?, message?, tookMs}.
 */
import { createFenceAgentBmc, type FenceAgentOptions } from '#adapters/bmc/fence-agent.ts';
import { formatErrorChain, isAppError } from '#base/error.ts';

const [text = '{}', action = 'status'] = process.argv.slice(2);
const bmc = createFenceAgentBmc(JSON.parse(text) as FenceAgentOptions);
const startMs = performance.now();
const tookMs = () => Math.round(performance.now() - startMs);
try {
  let power: string | null = null;
  if (action === 'off') await bmc.powerOff();
  else if (action === 'on') await bmc.powerOn();
  else power = await bmc.readPower();
  console.log(JSON.stringify({ ok: true, power, tookMs: tookMs() }));
} catch (error) {
  if (!isAppError(error)) throw error;
  console.log(JSON.stringify({ ok: false, kind: error.kind, message: formatErrorChain(error), tookMs: tookMs() }));
}
