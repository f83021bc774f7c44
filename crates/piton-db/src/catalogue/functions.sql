-- Functions and aggregates.
select 'function ' || name, pg_get_functiondef(oid) from proc where prokind <> 'a'
union all
select 'aggregate ' || proc.name,
       concat_ws(' ', g.aggkind, g.aggnumdirectargs, 'parallel', proc.proparallel,
         'state', format_type(g.aggtranstype, null), g.aggtransspace, g.aggtransfn::regprocedure, 'from ' || g.agginitval,
         'final', g.aggfinalfn::regprocedure, g.aggfinalextra, g.aggfinalmodify,
         'combine', g.aggcombinefn::regprocedure, g.aggserialfn::regprocedure, g.aggdeserialfn::regprocedure,
         case when g.aggmtransfn <> 0 then concat_ws(' ',
           'moving', format_type(g.aggmtranstype, null), g.aggmtransspace, g.aggmtransfn::regprocedure,
           g.aggminvtransfn::regprocedure, 'from ' || g.aggminitval,
           g.aggmfinalfn::regprocedure, g.aggmfinalextra, g.aggmfinalmodify) end,
         'sort', g.aggsortop::regoperator)
from proc join pg_aggregate g on g.aggfnoid = proc.oid
