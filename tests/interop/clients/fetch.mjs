// Node's own fetch, as any agent calls it: no proxy, no authority, no credential in sight.
const answer = await fetch(process.argv[2]);
console.log(await answer.text());
process.exitCode = answer.ok ? 0 : 1;
